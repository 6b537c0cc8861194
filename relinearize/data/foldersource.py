"""What sources of single image files share: listing, fingerprint, decoding."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relinearize.data.decoding import ImageFile, list_digest, load_decoded
from relinearize.data.source import Source, Split, check_labels
from relinearize.errors import UserError

if TYPE_CHECKING:
    from relinearize.data.images import ImageSet

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


class FolderSource(Source):
    """A set of image files, decoded to RGB once and cached as .npy (see decoding.py). Sub-classes list the files."""

    channels = 3
    exact: bool  # refuse images that are not image_size x image_size

    @property
    @abstractmethod
    def path(self) -> Path:
        """The folder of the set."""

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """The classes in label order."""

    @abstractmethod
    def _list(self, split: Split) -> Iterator[ImageFile]:
        """The files of a split, in any order; raises UserError naming what is missing."""

    @cached_property
    def _files(self) -> dict[Split, list[ImageFile]]:
        # Sorted by key: the order of the images depends neither on the file system nor on the layout.
        files = {split: sorted(self._list(split), key=lambda file: file.key) for split in ("train", "test")}
        for split, listed in files.items():
            labels = np.array([file.label for file in listed])
            check_labels(labels, len(self.class_names), f"{self.path}, {split} split")
        empty = sorted(set(range(len(self.class_names))) - {file.label for file in files["train"]})
        if empty:
            raise UserError(f"{self.path}: class {self.class_names[empty[0]]} has no training images")
        return files

    def check(self) -> None:
        """List the files of both splits."""
        self._files  # noqa: B018 - computed once

    def fingerprint(self) -> str:
        """sha256 over the sorted (name, size in bytes) of all files; their pixels are not read (see list_digest)."""
        self.check()
        return list_digest([*self._files["train"], *self._files["test"]], self.image_size)

    def load(self, split: Split) -> ImageSet:
        """A split, uint8 N x image_size x image_size x 3, memory-mapped from the cache; sorted by class, then name."""
        import torch

        from relinearize.data.images import ImageSet

        self.check()
        files = self._files[split]
        pixels = load_decoded(files, self.image_size, exact=self.exact, home=self.path, split=split)
        labels = torch.tensor([file.label for file in files], dtype=torch.int64)
        return ImageSet(torch.from_numpy(pixels), labels, list(self.class_names))


def list_folder(folder: Path) -> list[os.DirEntry]:
    """Visible entries of a folder, sorted by name; UserError when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error


def list_images(folder: Path, prefix: str, label: int) -> Iterator[ImageFile]:
    """The image files directly in a folder, with keys `prefix/name`."""
    for entry in list_folder(folder):
        if entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            yield ImageFile(entry.path, f"{prefix}/{entry.name}", entry.stat().st_size, label)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; these are the classes."""
    return [entry.name for entry in list_folder(folder) if entry.is_dir()]
