"""CIFAR-10 and CIFAR-100 in the layout of the official Python releases, as torchvision leaves them."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from relinearize.data.arraypickle import load_array_pickle
from relinearize.data.download import fetch_folder
from relinearize.data.source import Source, Split, check_labels
from relinearize.errors import UserError

if TYPE_CHECKING:
    from relinearize.data.images import ImageSet


class CIFAR(Source):
    """What the two sets share. Files of the set: pickled dicts with `data`, uint8 N x 3072, channel-major.

    root: the folder that holds `folder`; download: fetch the official archive if `folder` is missing; verify: compare
    the files with the official checksums; url: another place of the archive.
    """

    image_size = 32
    channels = 3
    folder: ClassVar[str]
    url: ClassVar[str]
    archive_md5: ClassVar[str]
    files: ClassVar[dict[Split, dict[str, str]]]  # split -> file name -> md5
    meta: ClassVar[tuple[str, str]]  # file name, md5
    names_key: ClassVar[str]
    labels_key: ClassVar[str]

    def __init__(
        self, root: str | Path = "data", download: bool = False, verify: bool = True, url: str | None = None
    ) -> None:
        self.root = Path(root).expanduser()
        self.download, self.verify = download, verify
        if url is not None:
            self.url = url

    @property
    def path(self) -> Path:
        return self.root / self.folder

    @property
    def checksums(self) -> dict[str, str]:
        """md5 of every file of the set."""
        return {**self.files["train"], **self.files["test"], self.meta[0]: self.meta[1]}

    def check(self) -> None:
        """Look for all files (downloading the set if it is missing and that was asked for) and their checksums."""
        if not self.path.exists() and self.download:
            fetch_folder(self.url, self.root, self.folder, self.archive_md5 if self.verify else None)
        if not self.path.is_dir():
            raise UserError(
                f"{self.path}: no such folder; point dataset.root to the folder that holds {self.folder}, "
                "or fetch it with dataset.download=true"
            )
        for file in self.checksums:
            if not (self.path / file).is_file():
                raise UserError(f"{self.path / file}: missing; the folder should hold {', '.join(self.checksums)}")
        if self.verify:
            self._verified  # noqa: B018 - computed once

    @cached_property
    def _verified(self) -> bool:
        for file, expected in self.checksums.items():
            with open(self.path / file, "rb") as opened:
                found = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if found != expected:
                raise UserError(
                    f"{self.path / file}: md5 {found} differs from the official {expected}; "
                    "dataset.verify=false accepts copies that differ"
                )
        return True

    def fingerprint(self) -> str:
        """sha256 over the names and bytes of the set's files (0.2 s for 180 MB)."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        self.check()
        content = hashlib.sha256()
        for file in sorted(self.checksums):
            with open(self.path / file, "rb") as opened:
                content.update(f"{file} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
        return content.hexdigest()

    def load(self, split: Split) -> ImageSet:
        """All images of a split, uint8 N x 32 x 32 x 3, in the order of the files."""
        import torch

        from relinearize.data.images import ImageSet

        self.check()
        batches = [self._read(file) for file in self.files[split]]
        images = np.concatenate([images for images, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        check_labels(labels, self.classes, self.path)
        return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), self._class_names())

    def _read(self, file: str) -> tuple[np.ndarray, np.ndarray]:
        path = self.path / file
        content = load_array_pickle(path)
        data, labels = content.get("data"), content.get(self.labels_key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise UserError(f"{path}: `data` is not an array of uint8, N x 3072")
        if not isinstance(labels, list | np.ndarray) or len(labels) != len(data):
            raise UserError(f"{path}: `{self.labels_key}` is not a list of {len(data)} labels, one for each image")
        try:
            numbers = np.asarray(labels, dtype=np.int64).reshape(len(data))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: `{self.labels_key}` holds something that is not a class number") from error
        # Channel-major rows become H x W x C, the order in which crops are runs of bytes.
        return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), numbers

    def _class_names(self) -> list[str]:
        path = self.path / self.meta[0]
        names = load_array_pickle(path).get(self.names_key)
        if not isinstance(names, list) or len(names) != self.classes:
            found = len(names) if isinstance(names, list) else "no"
            raise UserError(f"{path}: {found} class names in `{self.names_key}`, expected {self.classes}")
        return [str(name) for name in names]


class CIFAR10(CIFAR):
    """CIFAR-10: 50,000 + 10,000 images of 10 classes in `cifar-10-batches-py/`."""

    name = "cifar10"
    classes = 10
    folder = "cifar-10-batches-py"
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    archive_md5 = "c58f30108f718f92721af3b95e74349a"
    files: ClassVar = {
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    }
    meta = ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888")
    names_key = "label_names"
    labels_key = "labels"


class CIFAR100(CIFAR):
    """CIFAR-100 with its 100 fine labels: 50,000 + 10,000 images in `cifar-100-python/`."""

    name = "cifar100"
    classes = 100
    folder = "cifar-100-python"
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    archive_md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    files: ClassVar = {
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    }
    meta = ("meta", "7973b15100ade9c7d40fb424638fde48")
    names_key = "fine_label_names"
    labels_key = "fine_labels"
