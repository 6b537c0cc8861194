"""What every source of images shares: its interface, the images it hands over, the download of an archive.

No source imports torch when its module is imported.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from relinearize.errors import UserError
from relinearize.files import SHARED
from relinearize.progress import WorkProgress

if TYPE_CHECKING:
    from torch import Tensor

    from relinearize.data.decoding import EncodedImages

Split = Literal["train", "test"]
UNPACKED_LIMIT = 8 << 30  # bytes
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class ImageSet:
    """One split of an image set.

    images: uint8, N x H x W x C (channels last, so that a crop of a row is one run of bytes). It may be memory-mapped
        from a cache file, or decoded when rows of it are read.
    labels: int64, N, from 0 to len(class_names) - 1.
    class_names: the classes in label order.

    Raises UserError for other shapes.
    """

    images: Tensor | EncodedImages
    labels: Tensor
    class_names: list[str]

    def __post_init__(self) -> None:
        images, labels = tuple(self.images.shape), tuple(self.labels.shape)
        if len(images) != 4 or labels != images[:1]:
            raise UserError(f"images of {images} and labels of {labels} are no image set: N x H x W x C and N")

    def __len__(self) -> int:
        return len(self.labels)


class Source(ABC):
    """A labelled image set with a train and a test split, built by Hydra from conf/dataset/*.yaml.

    name: the set's short name; image_size: height and width in pixels; channels: 1 or 3; classes: their number; stream:
    whether images are decoded when a batch needs them, and are of any size until then.
    """

    name: str
    image_size: int
    channels: int
    classes: int
    stream: bool = False

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 (hex) that changes with the content of the set and not with its place on disk."""

    @abstractmethod
    def check(self) -> None:
        """Look before training: raise UserError when a folder or file is missing (after downloading, if asked to)."""

    @abstractmethod
    def load(self, split: Split) -> ImageSet:
        """Read one split; raises UserError naming the file that cannot be read."""


def check_labels(labels, classes: int, where: object) -> None:
    """Refuse an empty split and labels outside 0 .. classes - 1; `where` names the file or folder in the message."""
    if len(labels) == 0:
        raise UserError(f"{where}: holds no images; a split needs at least one")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{where}: labels reach from {labels.min()} to {labels.max()}, valid are 0 to {classes - 1}")


def check_set(found: ImageSet, source: Source, split: Split) -> ImageSet:
    """`found`, a split of `source`, which may be the user's own; UserError where it is not what an ImageSet is."""
    where = f"the {split} images of {source.name}"
    shape, wanted = tuple(found.images.shape[1:]), (source.image_size, source.image_size, source.channels)
    kinds = {"images": str(getattr(found.images, "dtype", "torch.uint8")), "labels": str(found.labels.dtype)}
    for name, kind in {"images": "torch.uint8", "labels": "torch.int64"}.items():
        if kinds[name] != kind:
            raise UserError(f"{where}: {name} must be {kind}, not {kinds[name]}")
    if shape != wanted:
        raise UserError(f"{where}: must be N x H x W x C of {wanted}, not {shape}")
    check_labels(found.labels, source.classes, where)
    return found


def find_folder(root: Path, folder: str, url: str | None, md5: str | None) -> Path:
    """`root/folder`; where it is missing, first the archive `url` (.tar.gz or .zip; None: not asked for) is unpacked.

    md5: of the archive, None where none is published. Everything happens in a temporary folder inside `root` that is
    renamed at the end, so a cut connection or a kill leaves no half-written set. Two processes do it once. Raises
    UserError naming the URL or the folder.
    """
    path = root / folder
    if url is not None and not path.exists():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with (
                FileLock(root / f".{folder}.lock", mode=SHARED),
                tempfile.TemporaryDirectory(prefix=".download-", dir=root) as work,
            ):
                if not path.exists():
                    download(url, Path(work) / "archive", md5)
                    unpack(Path(work) / "archive", Path(work) / "unpacked", url)
                    if not (Path(work) / "unpacked" / folder).is_dir():
                        raise UserError(f"{url}: the archive holds no folder {folder}")
                    (Path(work) / "unpacked" / folder).rename(path)
        except OSError as error:
            raise UserError(f"{root}: cannot write the downloaded set there ({error.strerror or error})") from error
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; point dataset.root to the folder that holds {folder}, "
            "or fetch it with dataset.download=true"
        )
    return path


# torchvision.datasets.utils has the following, too, but waits for ever for a silent server, falls back from https to
# http, and takes a cut or damaged archive for a complete one.


def download(url: str, target: Path, md5: str | None) -> None:
    """Fetch one file with a progress bar; check that it is complete and, where an md5 is known, the right one."""
    digest = hashlib.md5(usedforsecurity=False)  # the only checksum that is published
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(target, "wb") as file:
            length = response.headers.get("Content-Length")
            expected = int(length) if length and length.isdigit() else None
            with WorkProgress(expected, unit="bytes", transient=True) as progress:
                progress.begins(url.rsplit("/", 1)[-1])
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    progress.done(len(chunk))
    except (OSError, HTTPException, ValueError) as error:  # no server, its error, silence, no URL, a full disk
        raise UserError(f"{url}: cannot be fetched ({error}); try again, or download the set manually") from error
    if expected is not None and received != expected:
        raise UserError(f"{url}: the download was cut short, {received} of {expected} bytes; try again")
    if md5 is not None and digest.hexdigest() != md5:
        raise UserError(f"{url}: the archive's md5 is {digest.hexdigest()}, expected {md5}; try again")


def unpack(archive: Path, target: Path, url: str) -> None:
    """Unpack a tar or zip file into the new folder `target`; nothing is written outside of it.

    UserError for archives with anything but files and folders below it, or with more than UNPACKED_LIMIT bytes. Links
    are refused, not followed: some releases of Python (3.11.7) let the filters of `tarfile` be led outside by them.
    """
    size = 0

    def checked(name: str, plain: bool, length: int) -> None:
        nonlocal size
        size += length
        if not plain or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{url}: the archive's {name!r} is no file or folder below it")
        if size > UNPACKED_LIMIT:
            raise UserError(f"{url}: the archive holds more than {UNPACKED_LIMIT >> 30} GiB, which no set here has")

    def member(info: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        checked(info.name, info.isreg() or info.isdir(), info.size)
        return tarfile.data_filter(info, path)

    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter=member)
                # A damaged header looks like the end of the archive; the stream's own checksum is tested at its end.
                while tar.fileobj.read(CHUNK):
                    pass
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bundle:
                for info in bundle.infolist():
                    checked(info.filename, True, info.file_size)
                bundle.extractall(target)
        else:
            raise UserError(f"{url}: what the server sent is neither a tar nor a zip archive")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{url}: the archive cannot be unpacked ({error})") from error
