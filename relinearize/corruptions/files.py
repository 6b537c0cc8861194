"""The published corrupted test sets, from the user's disk."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from relinearize.corruptions.array_files import ArrayFiles
from relinearize.corruptions.constants import CORRUPTIONS, EXTRA
from relinearize.corruptions.folder_files import FolderFiles
from relinearize.corruptions.sources import CorruptedImages
from relinearize.errors import UserError


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
        self.folder = Path(folder).expanduser()
        self.names = CORRUPTIONS + EXTRA if extra else CORRUPTIONS
        self.left_out = {}
        if not self.folder.is_dir():
            raise UserError(f"corruptions.folder={folder}: no such folder; give that of CIFAR-10-C, CIFAR-100-C or "
                            "Tiny-ImageNet-C, or take evaluation.corruptions=generated")  # fmt: skip
        labels = np.asarray(labels).astype(np.int64)
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels do not match")
        if len(labels) != expected:
            raise UserError(
                f"corruptions.folder={folder}: belongs to a test set of {expected:,} images, but dataset's has "
                f"{len(labels):,}; take evaluation.corruptions=generated"
            )
        shape = tuple(images.shape[1:])
        self._expected = expected
        if any(self.folder.glob("*.npy")):
            self.layout = "arrays"
            self._files = ArrayFiles(self.folder, self.names, labels, shape)
        else:
            self.layout = "folders"
            if shape[0] != shape[1] or shape[2] != 3:
                raise UserError(
                    f"corruptions.folder={folder}: folders of JPEG files need a test set of square RGB images"
                )
            self._files = FolderFiles(self.folder, self.names, class_names, expected, shape[0])

    def __len__(self) -> int:
        return self._expected

    def describe(self) -> dict[str, Any]:
        """Layout, and a sha256 for each file (arrays: of its bytes; folders: of the names and sizes in it)."""
        return {
            "source": self.source,
            "layout": self.layout,
            "images": len(self),
            "names": list(self.names),
            "left_out": {},
            "sha256": self._sha256,
        }

    @cached_property
    def _sha256(self) -> dict[str, str]:
        return self._files.sha256()

    def _read(self, name: str, severity: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._files.read(name, severity, positions)
