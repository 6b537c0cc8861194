"""The published corrupted test sets, from the user's disk."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relinearize.corruptions.constants import CORRUPTIONS, EXTRA, SEVERITIES
from relinearize.corruptions.sources import CorruptedImages
from relinearize.data.decoding import CentralCrop, ImageFiles, listed
from relinearize.data.image_folder import class_folders, list_images
from relinearize.errors import UserError, check_choice, check_path
from relinearize.files import file_digest

LABELS = "labels.npy"
Cells = dict[tuple[str, int], tuple[np.ndarray | ImageFiles, np.ndarray]]  # corruption, severity -> images, labels


class CorruptionFiles(CorruptedImages):
    """CIFAR-10-C or CIFAR-100-C (a folder of .npy files) or Tiny-ImageNet-C (a folder of folders of JPEG files).

    images, labels, class_names: the clean test set (uint8 N x H x W x C, of which only the shape is looked at; int64 N;
    the classes in label order). extra: the four extra corruptions too. expected: how many images the published test set
    has. All names, shapes and labels are checked here, before anything is evaluated; raises UserError naming the file.

    Rows of .npy files are those of the test set; rows of folders are sorted by class, and other images.
    """

    source = "files"

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        *,
        folder: str | Path,
        extra: bool = False,
        expected: int = 10_000,
    ) -> None:
        path = check_path("corruptions.folder", folder)
        labels, shape = np.asarray(labels).astype(np.int64), tuple(images.shape[1:])
        check_choice("corruptions.extra", extra, (True, False))
        self.names = CORRUPTIONS + EXTRA if extra else CORRUPTIONS
        self.left_out = {}
        self._expected = expected
        if not path.is_dir():
            raise UserError(
                f"corruptions.folder={folder}: no such folder; give that of CIFAR-10-C, CIFAR-100-C or "
                "Tiny-ImageNet-C, or take evaluation.corruptions=generated"
            )
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels do not match")
        if len(labels) != expected:
            raise UserError(
                f"corruptions.folder={folder}: belongs to a test set of {expected:,} images, but dataset's has "
                f"{len(labels):,}; take evaluation.corruptions=generated"
            )
        if any(path.glob("*.npy")):
            self._layout = "arrays"
            self._cells, self._sha256 = array_files(path, self.names, labels, shape)
        elif shape[0] == shape[1] and shape[2] == 3:
            self._layout = "folders"
            self._cells, self._sha256 = folder_files(path, self.names, class_names, expected, shape[0])
        else:
            raise UserError(f"corruptions.folder={folder}: folders of JPEG files need a test set of square RGB images")

    def __len__(self) -> int:
        return self._expected

    def describe(self) -> dict[str, Any]:
        """Layout, and a sha256 for each file (arrays: of its bytes; folders: of the names and sizes in it)."""
        return {
            "source": self.source,
            "layout": self._layout,
            "images": len(self),
            "names": list(self.names),
            "left_out": {},
            "sha256": self._sha256,
        }

    def _read(self, name: str, severity: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._cells[name, severity]
        pixels = images[positions] if isinstance(images, np.ndarray) else images.numpy(positions)
        return pixels, labels[positions]


def array_files(
    folder: Path, names: Sequence[str], labels: np.ndarray, shape: tuple[int, ...]
) -> tuple[Cells, dict[str, str]]:
    """CIFAR-10-C and CIFAR-100-C: one .npy of five blocks, severity 1 to 5, for each corruption, and the labels.

    names: the corruptions that must be there; labels: the test set's, int64 N; shape: of an image, H x W x C. Returns
    the cells, memory-mapped, and the sha256 of each file's bytes (2.3 GB for all 15: seconds).
    """
    count = len(SEVERITIES) * len(labels)
    path, found = folder / LABELS, _open(folder / LABELS)
    if found.dtype.kind not in "iu" or found.shape != (count,):
        raise UserError(
            f"{path}: is {found.dtype} {_size(found.shape)}, expected {count:,} integers: the test set's "
            "labels five times"
        )
    for severity, block in enumerate(found.reshape(len(SEVERITIES), -1), 1):
        differing = np.flatnonzero(block != labels)
        if len(differing):
            row = differing[0]
            raise UserError(
                f"{path}: {len(differing):,} of the {len(block):,} labels of severity {severity} are not the test "
                f"set's (first at row {row}: {block[row]}, not {labels[row]}); take the files of this set"
            )
    arrays = {name: _open(folder / f"{name}.npy") for name in names}
    cells: Cells = {}
    for name, array in arrays.items():
        if array.shape != (count, *shape) or array.dtype != np.uint8:
            raise UserError(
                f"{folder / name}.npy: is {array.dtype} {_size(array.shape)}, expected uint8 "
                f"{_size((count, *shape))}: five blocks of {len(labels):,} images, severity 1 to 5"
            )
        for severity in SEVERITIES:
            cells[name, severity] = array[(severity - 1) * len(labels) : severity * len(labels)], labels
    return cells, {name: file_digest(folder / f"{name}.npy") for name in (*names, Path(LABELS).stem)}


def _open(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: missing; CIFAR-10-C and CIFAR-100-C hold {LABELS} and one .npy for each corruption")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: is no NumPy array of numbers ({error}); fetch it again") from error


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def folder_files(
    folder: Path, names: Sequence[str], class_names: Sequence[str], number: int, image_size: int
) -> tuple[Cells, dict[str, str]]:
    """Tiny-ImageNet-C: folders of JPEG files, NAME/SEVERITY/CLASS/*.JPEG, all listed here, decoded when they are read.

    names: the corruptions that must be there; class_names: the test set's, whose folders each severity must hold and no
    others; number: of images at each severity; image_size: in pixels. Returns the cells, their files sorted by class,
    then name (other photographs than the test set's, so only their classes can be compared), and a sha256 for each
    corruption over the names and marks of its files (see ImageFile).
    """
    cells: Cells = {}
    digests = defaultdict(hashlib.sha256)
    for name, severity in ((name, severity) for name in names for severity in SEVERITIES):
        place = folder / name / str(severity)
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; Tiny-ImageNet-C holds NAME/SEVERITY/CLASS/*.JPEG")
        found, expected = set(class_folders(place)), set(class_names)
        if missing := sorted(expected - found):
            raise UserError(
                f"{place}: holds {len(found & expected)} of the test set's {len(expected)} classes; the first that "
                f"is missing is {missing[0]}"
            )
        if unknown := sorted(found - expected):
            raise UserError(f"{place}: {unknown[0]} is none of the test set's {len(expected)} classes")
        files = []
        for label, wnid in enumerate(class_names):
            files += list_images(place / wnid, f"{name}/{severity}/{wnid}", label)
        files.sort(key=lambda file: file.key)
        if len(files) != number:
            raise UserError(f"{place}: holds {len(files):,} images, expected {number:,}")
        images = ImageFiles(files, CentralCrop(image_size, exact=True))
        cells[name, severity] = images, np.array([file.label for file in files], np.int64)
        digests[name].update(listed(files))
    return cells, {name: digest.hexdigest() for name, digest in digests.items()}
