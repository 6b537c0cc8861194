"""scikit-learn's digits: 1,797 real 8 x 8 grey scans of handwritten digits, on every machine without a download."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from relinearize.data.source import ImageSet, Source, Split
from relinearize.data.splits import allot, choose
from relinearize.errors import UserError

TEST_IMAGES = 360  # one fifth, stratified


class Digits(Source):
    """The digits with a fixed stratified split: 1,437 training and 360 test images.

    The scans have grey levels 0 to 16, stored here as round(value * 255 / 16). root, download and verify are accepted,
    so that overrides are the same for all datasets, and not used.
    """

    name = "digits"
    image_size = 8
    channels = 1
    classes = 10
    # sha256 of images, labels and test positions: a constant, since importing scikit-learn takes a second. load()
    # compares it with what scikit-learn gives.
    CONTENT = "61aae20bc6450ea43778ab6507ae7885036fe9364a7431a63639b0470c52165d"

    def __init__(self, root: str | None = None, download: bool = False, verify: bool = True) -> None:
        pass

    def fingerprint(self) -> str:
        """sha256 of the pixels, labels and split; a constant, compared with the data at loading."""
        return self.CONTENT

    def check(self) -> None:
        """Nothing can be missing: the images come with scikit-learn."""

    def load(self, split: Split) -> ImageSet:
        """1,437 (train) or 360 (test) images, uint8 N x 8 x 8 x 1."""
        import torch

        images, labels, test = read_digits()
        content = images.tobytes() + labels.astype("<i8").tobytes() + test.astype("<i8").tobytes()
        if hashlib.sha256(content).hexdigest() != self.CONTENT:
            raise UserError("scikit-learn's digits differ from the known 1,797 images: reinstall scikit-learn")
        rows = test if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
        return ImageSet(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]), [str(d) for d in range(10)])


@functools.cache
def read_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images uint8 1797 x 8 x 8 x 1, labels int64, sorted positions of the test images)."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images = np.rint(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int64)
    sizes = np.bincount(labels)
    shares = allot(sizes, TEST_IMAGES, lowest=np.ones_like(sizes), highest=sizes - 1)
    return images, labels, choose(labels, shares, seed=0, purpose="digits test")
