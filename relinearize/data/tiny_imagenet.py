"""Tiny-ImageNet: 100,000 + 10,000 images of 64 x 64 pixels and 200 classes. Its val part is the test split here.

The labels of the official test part were never published, so every paper of the field reports on val.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from relinearize.data.decoding import ImageFile
from relinearize.data.image_folder import FolderSource, class_folders, list_images
from relinearize.data.source import Split, find_folder
from relinearize.errors import UserError


class TinyImageNet(FolderSource):
    """Reads `tiny-imagenet-200/`: train/<wnid>/images/*.JPEG, and val/ as it comes (images/ and val_annotations.txt)
    or already sorted into class folders; the order of the images and the fingerprint are the same for both.

    root: the folder that holds `tiny-imagenet-200`; download: fetch the official archive if that is missing; verify is
    not used: no official checksum exists, the number of classes is always checked;
    url: another place of the archive.
    """

    name = "tiny_imagenet"
    image_size = 64
    classes = 200
    exact = True
    folder = "tiny-imagenet-200"

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = False,
        verify: bool = True,
        url: str = "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ) -> None:
        self.root = Path(root).expanduser()
        self.path = self.root / self.folder
        self.download, self.url = download, url

    @cached_property
    def class_names(self) -> list[str]:
        """The 200 WordNet ids, sorted; label i is the i-th."""
        find_folder(self.root, self.folder, self.url if self.download else None, md5=None)
        names = class_folders(self.path / "train")
        if len(names) != self.classes:
            raise UserError(f"{self.path / 'train'}: {len(names)} class folders, expected {self.classes}")
        return names

    def _list(self, split: Split, others: list[str]) -> Iterator[ImageFile]:
        labels = {name: label for label, name in enumerate(self.class_names)}
        part = "train" if split == "train" else "val"
        if split == "test" and not set(class_folders(self.path / "val")) & set(labels):
            yield from self._list_annotated(labels)
            return
        for name, label in labels.items():
            folder = self.path / part / name
            nested = folder / "images"
            yield from list_images(nested if nested.is_dir() else folder, f"{part}/{name}", label)

    def _list_annotated(self, labels: dict[str, int]) -> Iterator[ImageFile]:
        annotations = self.path / "val" / "val_annotations.txt"
        files = {Path(file.path).name: file for file in list_images(self.path / "val" / "images", "val", 0)}
        try:
            lines = annotations.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{annotations}: cannot be read; it names the class of each validation image") from error
        for number, line in enumerate(lines, 1):
            name, wnid = [*line.split("\t"), ""][:2]
            if wnid not in labels:
                raise UserError(f"{annotations}, line {number}: {wnid!r} is none of the {self.classes} classes")
            if name not in files:
                raise UserError(f"{self.path / 'val' / 'images' / name}: missing, but listed in {annotations.name}")
            yield ImageFile(files[name].path, f"val/{wnid}/{name}", files[name].mark, labels[wnid])
