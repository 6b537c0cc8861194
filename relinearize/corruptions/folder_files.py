"""Tiny-ImageNet-C as published: folders of JPEG files, NAME/SEVERITY/CLASS/*.JPEG."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from relinearize.corruptions.constants import SEVERITIES
from relinearize.data.decoding import CentralCrop, EncodedImages, FileItems, ImageFile
from relinearize.data.image_folder import class_folders, list_images
from relinearize.errors import UserError


class FolderFiles:
    """The folders, all listed when they are opened; the files are decoded when they are read.

    names: the corruptions that must be there; class_names: the test set's, whose folders each severity must hold and no
    others; number: of images at each severity; image_size: in pixels. The rows are the files sorted by class, then
    name: other photographs than the test set's, so only their classes can be compared. Raises UserError naming the
    folder that is missing or holds other classes or another number of images.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], class_names: Sequence[str], number: int, image_size: int
    ) -> None:
        self._folder, self._image_size = folder, image_size
        self._class_names = list(class_names)
        self._files = {(name, severity): self._list(name, severity) for name in names for severity in SEVERITIES}
        for (name, severity), files in self._files.items():
            if len(files) != number:
                raise UserError(f"{folder / name / str(severity)}: holds {len(files):,} images, expected {number:,}")

    def _list(self, name: str, severity: int) -> list[ImageFile]:
        folder = self._folder / name / str(severity)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; Tiny-ImageNet-C holds NAME/SEVERITY/CLASS/*.JPEG")
        found, expected = set(class_folders(folder)), set(self._class_names)
        if missing := sorted(expected - found):
            raise UserError(
                f"{folder}: holds {len(found & expected)} of the test set's {len(expected)} classes; the first that is "
                f"missing is {missing[0]}"
            )
        if unknown := sorted(found - expected):
            raise UserError(f"{folder}: {unknown[0]} is none of the test set's {len(expected)} classes")
        files = []
        for label, wnid in enumerate(self._class_names):
            files += list_images(folder / wnid, f"{name}/{severity}/{wnid}", label)
        return sorted(files, key=lambda file: file.key)

    def read(self, name: str, severity: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        files = [self._files[name, severity][row] for row in positions]
        crop = CentralCrop(self._image_size, exact=True)
        images = EncodedImages(FileItems([file.path for file in files]), crop).numpy()
        return images, np.array([file.label for file in files], np.int64)

    def sha256(self) -> dict[str, str]:
        """For each corruption over the names and sizes of its files; their bytes are not read."""
        digests = {}
        for name in dict.fromkeys(name for name, _ in self._files):
            listed = [file for severity in SEVERITIES for file in self._files[name, severity]]
            text = "".join(f"{file.key}\0{file.size}\n" for file in listed)
            digests[name] = hashlib.sha256(text.encode()).hexdigest()
        return digests
