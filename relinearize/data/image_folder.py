"""One's own images: a tree of class folders under train/ and test/ (or val/)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from relinearize.data.decoding import ImageFile
from relinearize.data.foldersource import FolderSource, class_folders, list_images
from relinearize.data.source import Split
from relinearize.errors import UserError


class ImageFolder(FolderSource):
    """Reads `root/train/<class>/*` and `root/test/<class>/*`, or val/ where there is no test/.

    Every image is converted to RGB, its shorter side resized to `image_size` pixels and the centre cropped, once.
    download and verify are accepted for the sake of uniform overrides: there is nothing to fetch or compare with.
    """

    name = "image_folder"
    exact = False

    def __init__(self, root: str | Path, image_size: int, download: bool = False, verify: bool = True) -> None:
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise UserError(f"dataset.image_size={image_size}: needs a whole number of pixels, 1 or more")
        self.root = Path(root).expanduser()
        self.image_size = image_size

    @property
    def path(self) -> Path:
        return self.root

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the class folders under train/, sorted; at least two."""
        if not (self.root / "train").is_dir():
            raise UserError(f"{self.root / 'train'}: no such folder; dataset.root needs train/ and test/ or val/ in it")
        names = class_folders(self.root / "train")
        if len(names) < 2:
            raise UserError(f"{self.root / 'train'}: {len(names)} class folder(s), a classifier needs at least 2")
        return names

    def _list(self, split: Split) -> Iterator[ImageFile]:
        labels = {name: label for label, name in enumerate(self.class_names)}
        part = self.root / "train" if split == "train" else self._test_folder()
        for name in class_folders(part):
            if name not in labels:
                raise UserError(f"{part / name}: this class has no folder under {self.root / 'train'}")
            yield from list_images(part / name, f"{split}/{name}", labels[name])

    def _test_folder(self) -> Path:
        for name in ("test", "val"):
            if (self.root / name).is_dir():
                return self.root / name
        raise UserError(f"{self.root / 'test'}: no such folder, and no val/ either; one of them holds the test images")
