"""CIFAR-10 and CIFAR-100 in the layout of the official Python releases, as torchvision leaves them.

Names, checksums and address are those of torchvision.datasets; its classes would execute what a file's pickle says.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from relinearize.data.source import ImageSet, Source, Split, check_labels, find_folder
from relinearize.errors import UserError
from relinearize.files import file_digest

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10 as OfficialFiles


class CIFAR(Source):
    """What the two sets share. Files of the set: pickled dicts with `data`, uint8 N x 3072, channel-major.

    root: the folder that holds the set's; download: fetch the official archive if that is missing; verify: compare the
    files with the official checksums; url: another place of the archive.
    """

    image_size = 32
    channels = 3
    labels_key: ClassVar[str]

    def __init__(
        self, root: str | Path = "data", download: bool = False, verify: bool = True, url: str | None = None
    ) -> None:
        self.root = Path(root).expanduser()
        self.download, self.verify, self.url = download, verify, url

    @property
    def official(self) -> type[OfficialFiles]:
        """torchvision's class of the set: base_folder, url, train_list, test_list, meta."""
        from torchvision import datasets

        return getattr(datasets, type(self).__name__)

    @property
    def path(self) -> Path:
        return self.root / self.official.base_folder

    @property
    def checksums(self) -> dict[str, str]:
        """md5 of every file of the set."""
        meta = self.official.meta
        return dict([*self.official.train_list, *self.official.test_list, (meta["filename"], meta["md5"])])

    def check(self) -> None:
        """Look for all files (downloading the set if it is missing and that was asked for) and their checksums."""
        official = self.official
        url = (self.url or official.url) if self.download else None
        find_folder(self.root, official.base_folder, url, official.tgz_md5 if self.verify else None)
        for file in self.checksums:
            if not (self.path / file).is_file():
                raise UserError(f"{self.path / file}: missing; the folder should hold {', '.join(self.checksums)}")
        if self.verify:
            self._verified  # noqa: B018 - computed once

    @cached_property
    def _verified(self) -> None:
        from torchvision.datasets.utils import calculate_md5

        for file, expected in self.checksums.items():
            if (found := calculate_md5(self.path / file)) != expected:
                raise UserError(
                    f"{self.path / file}: md5 {found} differs from the official {expected}; "
                    "dataset.verify=false accepts copies that differ"
                )

    def fingerprint(self) -> str:
        """sha256 over the names and bytes of the set's files (0.2 s for 180 MB)."""
        self.check()
        lines = [f"{file} {file_digest(self.path / file)}\n" for file in sorted(self.checksums)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def load(self, split: Split) -> ImageSet:
        """All images of a split, uint8 N x 32 x 32 x 3, in the order of the files."""
        import torch

        self.check()
        listed = self.official.train_list if split == "train" else self.official.test_list
        batches = [self._read(file) for file, _ in listed]
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
            if isinstance(labels, list):
                labels = [int(label) for label in labels]  # nested lists are refused, not unfolded
            numbers = np.asarray(labels, dtype=np.int64).reshape(len(data))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: `{self.labels_key}` holds something that is not a class number") from error
        # Channel-major rows become H x W x C, the order in which crops are runs of bytes.
        return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), numbers

    def _class_names(self) -> list[str]:
        meta = self.official.meta
        path = self.path / meta["filename"]
        names = load_array_pickle(path).get(meta["key"])
        if not isinstance(names, list) or len(names) != self.classes:
            found = len(names) if isinstance(names, list) else "no"
            raise UserError(f"{path}: {found} class names in `{meta['key']}`, expected {self.classes}")
        return [str(name) for name in names]


class CIFAR10(CIFAR):
    """CIFAR-10: 50,000 + 10,000 images of 10 classes in `cifar-10-batches-py/`."""

    name = "cifar10"
    classes = 10
    labels_key = "labels"


class CIFAR100(CIFAR):
    """CIFAR-100 with its 100 fine labels: 50,000 + 10,000 images in `cifar-100-python/`."""

    name = "cifar100"
    classes = 100
    labels_key = "fine_labels"


# ---- pickles that execute nothing ------------------------------------------------------------------------------------
# numpy is not called by a pickle: its dtypes trust what they are told about their memory. These stand in for what its
# pickles call.


class PickledDtype:
    """numpy.dtype, of numbers alone: a code and the byte order."""

    order = ""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"}:
            raise pickle.UnpicklingError(f"arrays of type {code!r} are not allowed")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else ""

    def numbers(self, raw: str | bytes, shape: tuple = (), order: str = "C") -> np.ndarray:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote its bytes as a string
        return np.frombuffer(raw, self.order + self.code).reshape(shape, order=order)


class PickledArray:
    """What numpy's _reconstruct returns; the array comes with the state."""

    def __init__(self, *_: Any) -> None:
        self.array = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.array = dtype.numbers(raw, shape, "F" if is_fortran else "C")


KNOWN: dict[str, Callable[..., Any]] = {
    "numpy.dtype": PickledDtype,
    "numpy.ndarray": PickledArray,
    "multiarray._reconstruct": PickledArray,
    "multiarray.scalar": lambda dtype, raw: dtype.numbers(raw).item(),
    "numeric._frombuffer": lambda raw, dtype, shape, order: dtype.numbers(raw, shape, order),
    # With which Python 3 writes bytes into pickles of protocol 2.
    "_codecs.encode": lambda text, _latin1: text.encode("latin1"),
}


class ArrayUnpickler(pickle._Unpickler):
    """Knows the names that arrays of numbers need and refuses all others before they are looked up.

    It refuses as well what a small file can make endless work of: keys that hold others, whose hashes take time
    exponential in their depth, and sets. Python's own class, since the one in C can be told neither.
    """

    def load_items(self, load: Callable[[Any], None], keys: slice) -> None:
        for key in self.stack[keys]:
            if not isinstance(key, str | bytes):
                raise pickle.UnpicklingError(f"a {type(key).__name__} as a key is not allowed in an image file")
        load(self)

    def load_set(self) -> None:
        raise pickle.UnpicklingError("sets are not allowed in an image file")

    dispatch = pickle._Unpickler.dispatch | {
        pickle.SETITEM[0]: lambda self: self.load_items(pickle._Unpickler.load_setitem, slice(-2, -1)),
        pickle.SETITEMS[0]: lambda self: self.load_items(pickle._Unpickler.load_setitems, slice(None, None, 2)),
        pickle.DICT[0]: lambda self: self.load_items(pickle._Unpickler.load_dict, slice(None, None, 2)),
        pickle.EMPTY_SET[0]: load_set,
        pickle.FROZENSET[0]: load_set,
    }

    def find_class(self, module: str, name: str) -> Any:
        known = f"{module}.{name}".removeprefix("numpy.core.").removeprefix("numpy._core.")
        if known not in KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in an image file")
        return KNOWN[known]


def load_array_pickle(path: Path) -> dict[str, Any]:
    """The dict of numbers, texts, lists and arrays in a pickle.

    UserError naming the file when it is missing, cut short or holds something else.
    """
    try:
        with open(path, "rb") as file:
            # Python 2 wrote the official files: its strings become str through latin1.
            content = ArrayUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__} instead of a dict")
        values = [value.array if isinstance(value, PickledArray) else value for value in content.values()]
        names = [key.decode("latin1") if isinstance(key, bytes) else str(key) for key in content]
        return dict(zip(names, values, strict=True))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle can raise almost anything: EOFError, ValueError, KeyError, ...
        raise UserError(f"{path}: truncated or not a CIFAR file ({error})") from error
