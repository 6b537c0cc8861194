"""The classification sets of torchvision.datasets: `dataset=torchvision dataset.class=FashionMNIST`."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import itertools
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from relinearize.data.decoding import CACHE_VERSION, CentralCrop, EncodedImages, as_rgb, load_decoded
from relinearize.data.source import ImageSet, Source, Split, check_labels
from relinearize.errors import UserError
from relinearize.files import SHARED, move_into

if TYPE_CHECKING:
    from PIL.Image import Image
    from torchvision.datasets import VisionDataset

SOME = ("FashionMNIST", "SVHN", "Imagenette", "Flowers102", "Food101", "ImageNet")
UNPICKLED = {"CIFAR10": "cifar10", "CIFAR100": "cifar100"}  # torchvision executes their files; ours reads them safely
ARCHIVES = (".gz", ".tgz", ".zip", ".tar", ".bz2", ".xz", ".mat")  # what torchvision's sets are fetched as
# What torchvision's sets call their splits, in the order in which they are tried.
NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "trainval", "train-standard"),
    "test": ("test", "val", "valid"),
}


class TorchvisionImages(Source):
    """Any set of torchvision.datasets whose items are (image, class number).

    root: where torchvision keeps the set; download: let torchvision fetch it if it is missing; image_size: every image
    is resized (shorter side) and centre-cropped to it, None for sets whose images are squares of one size; channels: 1
    (grey) or 3, None for the set's own; train_split, test_split: torchvision's names where ours do not fit; options:
    further arguments of the class (`{split: letters}` of EMNIST); stream: decode whenever a batch needs an image,
    instead of once. verify is not used: torchvision compares what it downloads.
    """

    def __init__(
        self,
        set_name: str,
        root: str | Path = "data",
        download: bool = False,
        verify: bool = True,
        image_size: int | None = None,
        channels: int | None = None,
        train_split: str | None = None,
        test_split: str | None = None,
        options: Mapping[str, Any] | None = None,
        stream: bool | float = False,
    ) -> None:
        self.name, self.root, self.download = set_name, Path(root).expanduser(), download
        self._size, self._channels, self.stream = image_size, channels, bool(stream)
        self._splits, self._options = {"train": train_split, "test": test_split}, dict(options or {})
        if image_size is not None and (type(image_size) is not int or image_size < 1):
            raise UserError(f"dataset.image_size={image_size}: must be a number of pixels, at least 1, or null")
        if channels not in (None, 1, 3):
            raise UserError(f"dataset.channels={channels}: valid are 1, 3, and null for the set's own")

    # ---- what the set is ---------------------------------------------------------------------------------------------

    @property
    def image_size(self) -> int:
        return self._size or self._first.size[0]

    @property
    def channels(self) -> int:
        return self._channels or (1 if self._first.mode in ("1", "L") else 3)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        names = getattr(self._datasets["train"], "classes", None)
        count = max(int(labels.max(initial=0)) for labels in self._labels.values()) + 1
        if isinstance(names, list | tuple) and len(names) >= count:
            return [name if isinstance(name, str) else str(name[0]) for name in names]
        return [str(label) for label in range(count)]

    def check(self) -> None:
        """Open both splits (downloading them if they are missing and that was asked for) and look at their labels."""
        for split, labels in self._labels.items():
            check_labels(labels, self.classes, f"{self.name}, {split} split")
        _ = self._first

    def fingerprint(self) -> str:
        """sha256 over what the set lists for each of its images: path and size in bytes, or pixels, and class."""
        return hashlib.sha256(f"{self.name} {self._digest('train')} {self._digest('test')}\n".encode()).hexdigest()

    def load(self, split: Split) -> ImageSet:
        """A split, uint8 N x image_size x image_size x channels, in torchvision's order; see ImageFolder."""
        import torch

        self.check()
        remedy = "; dataset.image_size=PIXELS resizes"
        crop = CentralCrop(self.image_size, self.channels, self.stream, exact=self._size is None, remedy=remedy)
        images = DatasetImages(self._datasets[split], f"{self.name}, {split}", crop)
        if not self.stream:
            place = f"{self.name}_{split}_{self.channels}_{CACHE_VERSION}"
            if self._options:
                place += hashlib.sha256(repr(sorted(self._options.items())).encode()).hexdigest()[:8]
            images = torch.from_numpy(load_decoded(images, self._digest(split), home=self.root, split=place))
        return ImageSet(images, torch.from_numpy(self._labels[split]), self.class_names)

    # ---- torchvision's objects ---------------------------------------------------------------------------------------

    @property
    def _class(self) -> type[VisionDataset]:
        from torchvision import datasets

        if self.name in UNPICKLED:
            raise UserError(f"dataset.class={self.name}: use dataset={UNPICKLED[self.name]}")
        if self.name not in datasets.__all__ or not inspect.isclass(getattr(datasets, self.name)):
            close = difflib.get_close_matches(str(self.name), datasets.__all__, n=3)
            names = ", ".join(dict.fromkeys([*close, *SOME]))
            raise UserError(f"dataset.class={self.name}: no set of torchvision.datasets; some are {names}")
        return getattr(datasets, self.name)

    @cached_property
    def _datasets(self) -> dict[Split, VisionDataset]:
        return {"train": self._open("train"), "test": self._open("test")}

    def _open(self, split: Split) -> VisionDataset:
        from torchvision.datasets import MNIST

        kind = self._class
        parameters = inspect.signature(kind).parameters
        if "train" in parameters or issubclass(kind, MNIST):
            for key, name in self._splits.items():
                if name is not None:
                    raise UserError(f"dataset.{key}_split={name}: {self.name} has no names of splits; leave it out")
            try:
                return self._made({"train": split == "train"})
            except ValueError as error:  # EMNIST's split
                raise UserError(f"dataset.options of {self.name}: {error}") from error
        if "split" not in parameters:
            raise UserError(f"dataset.class={self.name}: torchvision has no test split of it")
        for name in [self._splits[split]] if self._splits[split] else NAMES[split]:
            try:
                return self._made({"split": name})
            except ValueError as error:  # "Unknown value 'test' for argument split. Valid values are {...}."
                refusal = str(error).split("Valid values are")[-1].strip(" .")
        given = self._splits[split] or "null"
        raise UserError(f"dataset.{split}_split={given}: name one of the splits of {self.name}, {refusal}")

    def _made(self, arguments: dict[str, Any]) -> VisionDataset:
        """The set as it lies in `root`, or downloaded."""
        # EMNIST and QMNIST hand arguments that they do not know on to MNIST.
        can_download = any("download" in inspect.signature(kind).parameters for kind in self._class.__mro__[:2])
        for opened in [self._present, self._fetched] if self.download and can_download else [self._present]:
            try:
                return opened(arguments)
            except ValueError as error:
                if "argument split" in str(error):
                    raise
                problem = error
            except (OSError, RuntimeError, TypeError, ModuleNotFoundError) as error:
                problem = error
        reason = str(problem).strip().split("\n")[0] or type(problem).__name__
        if isinstance(problem, TypeError | ModuleNotFoundError):
            raise UserError(f"dataset.class={self.name}: cannot be opened ({reason}); see dataset.options")
        remedy = "or fetch it with dataset.download=true" if can_download else "torchvision cannot fetch it"
        raise UserError(
            f"{self.root}: {self.name} is not there, or damaged ({reason}); point dataset.root to where it is, {remedy}"
        ) from problem

    def _present(self, arguments: dict[str, Any]) -> VisionDataset:
        return self._class(self.root, **arguments, **self._options)

    def _fetched(self, arguments: dict[str, Any]) -> VisionDataset:
        """torchvision unpacks in place, and takes what it finds for the whole set: so elsewhere, moved at the end."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(self.root / f".{self.name}.lock", mode=SHARED),
            tempfile.TemporaryDirectory(prefix=".download-", dir=self.root) as work,
        ):
            with suppress(OSError, RuntimeError, ValueError):  # another process has fetched it meanwhile
                return self._present(arguments)
            # The user's own copies: torchvision compares them, and unpacks them or fetches them anew.
            for archive in itertools.chain.from_iterable(self.root.glob(depth) for depth in ("*", "*/*", "*/*/*")):
                name = archive.relative_to(self.root)
                if name.suffix in ARCHIVES and archive.is_file() and not name.parts[0].startswith("."):
                    link = Path(work) / name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(archive.resolve())
            self._class(work, **arguments, **self._options, download=True)
            move_into(Path(work), self.root, replace=True)
        return self._present(arguments)

    @cached_property
    def _first(self) -> Image:
        """The first training image; refuses sets whose items are no images with a class number."""
        import PIL.Image

        item = item_of(self._datasets["train"], 0, self.name)
        if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], PIL.Image.Image)):
            raise UserError(f"dataset.class={self.name}: its items are not an image and a class number")
        if self._size is None and item[0].size[0] != item[0].size[1]:
            raise UserError(f"{self.name}: images of {item[0].size} pixels are no squares; give dataset.image_size")
        return item[0]

    @cached_property
    def _labels(self) -> dict[Split, np.ndarray]:
        return {split: labels_of(dataset, self.name) for split, dataset in self._datasets.items()}

    def _digest(self, split: Split) -> str:
        """Of the images and classes of a split, and of what they are decoded to."""
        content = hashlib.sha256(f"{self.image_size} {self.channels} {sorted(self._options.items())}\n".encode())
        content.update(self._labels[split].astype("<i8").tobytes())
        dataset = self._datasets[split]
        listed = sorted({digest_of(value, self.root) for value in lists_of(dataset)})
        content.update("".join(listed).encode())
        return content.hexdigest()


class DatasetImages(EncodedImages):
    """The images of a set of torchvision, grey (1 channel) or RGB; `place`: of messages."""

    def __init__(self, dataset: VisionDataset, place: str, crop: CentralCrop) -> None:
        super().__init__(len(dataset), crop)
        self.dataset, self.place = dataset, place

    def image(self, position: int) -> Image:
        try:
            image, mode = self.dataset[position][0], "L" if self.crop.channels == 1 else "RGB"
            return image if image.mode == mode else as_rgb(image).convert(mode)
        except Exception as error:  # whatever torchvision's readers and Pillow's raise
            raise UserError(f"{self.name(position)}: cannot be decoded ({error})") from error

    def name(self, position: int) -> str:
        return f"{self.place} image {position}"


def item_of(dataset: VisionDataset, position: int, name: str) -> Any:
    try:
        return dataset[position]
    except Exception as error:  # whatever torchvision's readers and Pillow's raise
        raise UserError(f"{name} image {position}: cannot be decoded ({error})") from error


def lists_of(dataset: VisionDataset) -> list[Sequence | np.ndarray]:
    """What the object keeps for each of its images: arrays, paths, classes."""
    from torch import Tensor

    distinct = {id(value): value for value in vars(dataset).values()}.values()
    kept = (value.numpy() if isinstance(value, Tensor) else value for value in distinct)
    return [value for value in kept if isinstance(value, list | tuple | np.ndarray) and len(value) == len(dataset)]


def labels_of(dataset: VisionDataset, name: str) -> np.ndarray:
    """int64, one class number an image. UserError for sets whose items are something else, or that do not list them."""
    if len(dataset) == 0:
        return np.empty(0, np.int64)
    places = (0, len(dataset) // 2, len(dataset) - 1)
    shown, lists = [item_of(dataset, place, name)[1] for place in places], lists_of(dataset)
    for value in lists:
        # (path, class) as ImageFolder and its like have it, or classes alone
        last = [entry[-1] for entry in value] if isinstance(value[0], tuple) else value
        numbers = all(isinstance(last[place], int | np.integer) for place in places)
        if numbers and [int(last[place]) for place in places] == shown:
            return np.asarray(last, np.int64)
    if not lists and isinstance(shown[0], int):
        raise UserError(f"dataset.class={name}: the set does not list its images")
    labels = [item_of(dataset, position, name)[1] for position in range(len(dataset))]
    if not all(isinstance(label, int) for label in labels):
        raise UserError(f"dataset.class={name}: its items are not an image and a class number")
    return np.array(labels, np.int64)


def digest_of(value: Any, root: Path) -> str:
    """sha256 of arrays by their bytes, of paths by their place below `root` and the size of the file."""
    content = hashlib.sha256()
    for entry in value if isinstance(value, list | tuple) else [value]:
        if isinstance(entry, np.ndarray) or hasattr(entry, "numpy"):
            content.update(np.ascontiguousarray(entry).tobytes())
        elif isinstance(entry, tuple):
            content.update(digest_of(entry, root).encode())
        elif isinstance(entry, str | Path) and os.path.isfile(entry):
            content.update(f"{os.path.relpath(entry, root)}\0{os.path.getsize(entry)}\n".encode())
        else:
            content.update(f"{entry}\n".encode())
    return content.hexdigest()
