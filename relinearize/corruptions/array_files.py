"""CIFAR-10-C and CIFAR-100-C as published: one .npy of five blocks, severity 1 to 5, for each corruption."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from relinearize.corruptions.constants import SEVERITIES
from relinearize.errors import UserError

LABELS = "labels.npy"


class ArrayFiles:
    """The files of a folder, all looked at when it is opened.

    names: the corruptions that must be there; labels: the test set's, int64 N; shape: of an image, H x W x C. Raises
    UserError naming the file that is missing, has another shape or type, or whose labels are not those of the test set.
    """

    def __init__(self, folder: Path, names: Sequence[str], labels: np.ndarray, shape: tuple[int, ...]) -> None:
        self._folder, self._labels = folder, labels
        self._check_labels(_open(folder / LABELS))
        self._arrays = {}
        for name in names:
            path = folder / f"{name}.npy"
            array = _open(path)
            expected = (len(SEVERITIES) * len(labels), *shape)
            if array.shape != expected or array.dtype != np.uint8:
                raise UserError(
                    f"{path}: is {array.dtype} {_size(array.shape)}, expected uint8 {_size(expected)}: five blocks of "
                    f"{len(labels):,} images, severity 1 to 5"
                )
            self._arrays[name] = array

    def _check_labels(self, found: np.ndarray) -> None:
        path, expected = self._folder / LABELS, len(SEVERITIES) * len(self._labels)
        if found.dtype.kind not in "iu" or found.shape != (expected,):
            raise UserError(
                f"{path}: is {found.dtype} {_size(found.shape)}, expected {expected:,} integers: the test set's "
                "labels five times"
            )
        for severity, block in enumerate(found.reshape(len(SEVERITIES), -1), 1):
            differing = np.flatnonzero(block != self._labels)
            if len(differing):
                row = differing[0]
                raise UserError(
                    f"{path}: {len(differing):,} of the {len(block):,} labels of severity {severity} are not the test "
                    f"set's (first at row {row}: {block[row]}, not {self._labels[row]}); take the files of this set"
                )

    def read(self, name: str, severity: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = (severity - 1) * len(self._labels)
        return self._arrays[name][first + positions], self._labels[positions]

    def sha256(self) -> dict[str, str]:
        """Of each file's bytes (2.3 GB for all 15: seconds)."""
        digests = {}
        for name in [*self._arrays, Path(LABELS).stem]:
            with open(self._folder / f"{name}.npy", "rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return digests


def _open(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: missing; CIFAR-10-C and CIFAR-100-C hold {LABELS} and one .npy for each corruption")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: is no NumPy array of numbers ({error}); fetch it again") from error


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
