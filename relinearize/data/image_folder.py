"""Sets of image files in class folders: listing, fingerprint, decoding. Your own and ImageNet."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from relinearize.data.decoding import CentralCrop, ImageFile, ImageFiles, list_digest, load_decoded
from relinearize.data.source import ImageSet, Source, Split, check_labels
from relinearize.errors import UserError
from relinearize.files import file_digest
from relinearize.progress import say

COMPRESSED = (".jpg", ".jpeg", ".png", ".webp")
EXTENSIONS = (*COMPRESSED, ".bmp", ".ppm", ".pgm", ".tif", ".tiff")


class FolderSource(Source):
    """A set of image files, decoded to RGB once and cached as .npy, or for each batch. Sub-classes list the files.

    path: the folder of the set; class_names: the classes in label order; exact: refuse images that are not image_size x
    image_size; stream: do not cache, decode what a batch needs.
    """

    path: Path
    class_names: list[str]
    channels = 3
    exact = False
    stream = False

    @abstractmethod
    def _list(self, split: Split, others: list[str]) -> Iterator[ImageFile]:
        """The files of a split, in any order; what lies beside them: `others`. UserError names what is missing."""

    @cached_property
    def _files(self) -> dict[Split, list[ImageFile]]:
        # Sorted by key: the order of the images depends neither on the file system nor on the layout.
        others: list[str] = []
        files = {split: sorted(self._list(split, others), key=lambda file: file.key) for split in ("train", "test")}
        if others:
            say(
                f"{self.path}: {len(others)} files and folders beside the images ({', '.join(EXTENSIONS)}) "
                f"are left out, first {others[0]}"
            )
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
        """sha256 over the names and marks of all files; compressed ones are not read (see list_digest)."""
        self.check()
        return list_digest([*self._files["train"], *self._files["test"]], self.image_size)

    def load(self, split: Split) -> ImageSet:
        """A split, uint8 N x image_size x image_size x 3, sorted by class, then name.

        Memory-mapped from the cache, or decoded when rows are read (`stream`; then with a margin around the crop).
        """
        import torch

        self.check()
        files = self._files[split]
        crop = CentralCrop(self.image_size, margin=self.stream, exact=self.exact)
        images = ImageFiles(files, crop)
        labels = torch.tensor([file.label for file in files], dtype=torch.int64)
        if not self.stream:
            digest = list_digest(files, self.image_size)
            images = torch.from_numpy(load_decoded(images, digest, home=self.path, split=split))
        return ImageSet(images, labels, list(self.class_names))


class ImageFolder(FolderSource):
    """Reads `root/train/<class>/*` and `root/test/<class>/*`, or val/ where there is no test/.

    Every image is converted to RGB, its shorter side resized to `image_size` pixels and the centre cropped. stream:
    do that (with ImageNet's margin) whenever a batch needs the image, instead of once. download and verify are not
    used: there is nothing to fetch or compare with.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int,
        download: bool = False,
        verify: bool = True,
        stream: bool | float = False,
        name: str = "image_folder",
    ) -> None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise UserError(f"dataset.image_size={image_size}: must be an integer number of pixels, at least 1")
        self.path = Path(root).expanduser()
        self.image_size, self.stream, self.name = image_size, bool(stream), name

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the class folders under train/, sorted; at least two."""
        if not (self.path / "train").is_dir():
            raise UserError(f"{self.path / 'train'}: no such folder; dataset.root needs train/ and test/ or val/ in it")
        names = class_folders(self.path / "train")
        if len(names) < 2:
            raise UserError(f"{self.path / 'train'}: {len(names)} class folder(s), a classifier needs at least 2")
        return names

    def _list(self, split: Split, others: list[str]) -> Iterator[ImageFile]:
        labels = {name: label for label, name in enumerate(self.class_names)}
        folders = [self.path / name for name in (("train",) if split == "train" else ("test", "val"))]
        there = [folder for folder in folders if folder.is_dir()]
        part = next((folder for folder in there if class_folders(folder)), next(iter(there), None))
        if part is None:
            raise UserError(f"{folders[0]}: no such folder, and no val/ either; one of them holds the test images")
        others += [entry.path for entry in list_folder(part) if not entry.is_dir()]
        for name in class_folders(part):
            if name not in labels:
                raise UserError(f"{part / name}: this class has no folder under {self.path / 'train'}")
            yield from list_images(part / name, f"{split}/{name}", labels[name], others)


def list_folder(folder: Path) -> list[os.DirEntry]:
    """Visible entries of a folder, sorted by name; UserError when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error


def list_images(folder: Path, prefix: str, label: int, others: list[str] | None = None) -> Iterator[ImageFile]:
    """The image files directly in a folder, with keys `prefix/name`; paths of what else is there go to `others`."""
    for entry in list_folder(folder):
        if entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
            yield ImageFile(entry.path, f"{prefix}/{entry.name}", mark_of(entry), label)
        elif others is not None:
            others.append(entry.path)


def mark_of(entry: os.DirEntry) -> str:
    """See ImageFile. UserError for a file that cannot be read."""
    try:
        if entry.name.lower().endswith(COMPRESSED):
            return str(entry.stat().st_size)
        content = entry.stat()
        return _digest(entry.path, content.st_size, content.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{entry.path}: cannot be read ({error.strerror})") from error


@cache
def _digest(path: str, _size: int, _changed: int) -> str:
    """Remembered while the file keeps its size and its time: a run opens a set more than once."""
    return file_digest(Path(path))


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; these are the classes."""
    return [entry.name for entry in list_folder(folder) if entry.is_dir()]
