"""From encoded images to bytes: decoded once and kept as .npy beside the files, or whenever they are asked for."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from filelock import FileLock

from relinearize.errors import UserError
from relinearize.files import SHARED, file_digest, look_anew, replacing, user_cache, write_text
from relinearize.machine import usable_cores
from relinearize.progress import WorkProgress

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# Raise it when the same files would be decoded to other bytes. Keys of torchvision's sets do not have it, so that the
# digest in torchvision_sets.py then needs it, too.
CACHE_VERSION = 2
CHUNK = 256  # images per task
MARGIN = 256 / 224


@dataclass(frozen=True)
class CentralCrop:
    """How an image becomes `size` x `size` x `channels` bytes where nothing is drawn at random.

    The shorter side is resized to `size` pixels (bilinear, antialiased) and the centre is cropped. margin: instead
    torchvision's Resize(256) and CenterCrop(224), or in that proportion. exact: refuse images of another size; `remedy`
    ends that message.
    """

    size: int
    channels: int = 3
    margin: bool = False
    exact: bool = False
    remedy: str = ""

    def __call__(self, image: Image, where: object) -> np.ndarray:
        width, height = image.size
        size = self.size
        if (width, height) != (size, size) and self.exact:
            raise UserError(f"{where}: is {width} x {height} pixels, expected {size} x {size}{self.remedy}")
        if self.margin:
            from torchvision.transforms.functional import center_crop, resize

            image = center_crop(resize(image, round(size * MARGIN)), size)
        elif (width, height) != (size, size):
            scale = size / min(width, height)
            width, height = max(size, round(width * scale)), max(size, round(height * scale))
            left, top = (width - size) // 2, (height - size) // 2
            image = image.resize((width, height), resample=2)  # bilinear
            image = image.crop((left, top, left + size, top + size))
        return np.asarray(image).reshape(size, size, self.channels)


class EncodedImages(ABC):
    """Images that are decoded when they are asked for; indexed as a uint8 tensor of N x H x W x C is."""

    ndim = 4

    def __init__(self, count: int, crop: CentralCrop) -> None:
        self.crop = crop
        self.shape = (count, crop.size, crop.size, crop.channels)

    @abstractmethod
    def image(self, position: int) -> Image:
        """Decoded, not cropped, with the channels that the network takes. UserError names what cannot be decoded."""

    @abstractmethod
    def name(self, position: int) -> str:
        """Of the image, for messages."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | list[int] | slice) -> Tensor:
        import torch

        return self.index_select(0, torch.arange(len(self))[rows])

    def index_select(self, _dimension: int, rows: Tensor) -> Tensor:
        import torch

        return torch.from_numpy(self.numpy(rows.tolist()))

    def numpy(self, rows: Sequence[int]) -> np.ndarray:
        """The images at `rows`."""
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        decode_all(self, rows, pixels)
        return pixels


# ---- files -----------------------------------------------------------------------------------------------------------


class ImageFile(NamedTuple):
    """One labelled file.

    key: its name within the set, whatever the layout of the folders. mark: its size in bytes; of an uncompressed file,
    whose size says nothing, the sha256 of its content.
    """

    path: str
    key: str
    mark: str
    label: int


class ImageFiles(EncodedImages):
    """One image a file."""

    def __init__(self, files: Sequence[ImageFile], crop: CentralCrop) -> None:
        super().__init__(len(files), crop)
        self.paths = [file.path for file in files]

    def image(self, position: int) -> Image:
        return open_image(self.paths[position])

    def name(self, position: int) -> str:
        return self.paths[position]


def open_image(path: str | Path) -> Image:
    """One file as an RGB image (`as_rgb`). UserError where it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return as_rgb(opened)
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(f"{path}: cannot be decoded ({error}); replace or remove this image") from error


def as_rgb(image: Image) -> Image:
    """8 bits a channel: 16 bits are scaled, what is transparent lies on white; grey, palette and CMYK are converted.

    Raises ValueError for pixels without a range: floating-point and 32-bit numbers.
    """
    from PIL import Image

    # Pillow reads 16 bits of a PPM, and before version 11 of a PNG, as 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.int32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("F", "I"):
        raise ValueError(f"its pixels are {'floating-point' if image.mode == 'F' else '32-bit'} numbers, not 0 to 255")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def list_digest(files: Sequence[ImageFile], image_size: int) -> str:
    """sha256 over the sorted (key, mark) of the files and the size they are decoded to.

    Reading compressed files would take minutes on a cluster's file system; one that is replaced by another of the very
    same length goes unnoticed.
    """
    content = hashlib.sha256(f"{CACHE_VERSION} {image_size}\n".encode())
    content.update(listed(sorted(files, key=lambda file: (file.key, file.mark))))
    return content.hexdigest()


def listed(files: Iterable[ImageFile]) -> bytes:
    """Key and mark of each, for a digest."""
    lines = (f"{file.key}\0{file.mark}\n" for file in files)
    return "".join(lines).encode(errors="surrogateescape")  # names may be of any bytes


# ---- the cache -------------------------------------------------------------------------------------------------------


def load_decoded(images: EncodedImages, digest: str, *, home: Path, split: str) -> np.ndarray:
    """All images, uint8 N x H x W x C, memory-mapped (copy on write).

    digest: of what the images are made from; a cache file's name holds it, so one that does not fit is never read, and
    is removed when the new one is written. home: the folder of the set; the cache lies in `home/.relinearize/`, or in
    the user's cache folder where that cannot be written. Raises UserError naming the file that cannot be decoded, or
    the folders that cannot be written.
    """
    place = f"{home.name}-{hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]}"
    refusals = []
    for folder in (home / ".relinearize", user_cache() / place):
        array = folder / f"{split}-{images.crop.size}px-{digest[:16]}.npy"

        def decode(pixels: np.ndarray, array: Path = array) -> None:
            with WorkProgress(len(images), unit="images", transient=True) as progress:
                progress.begins(f"decoding {home.name} {split}")
                decode_all(images, range(len(images)), pixels, progress.done)
            for stale in array.parent.glob(f"{split}-{images.crop.size}px-*.*"):
                if stale.stem != array.stem:
                    stale.unlink(missing_ok=True)

        try:
            return load_array(array, images.shape, decode)
        except OSError as error:
            refusals.append(f"{folder} ({error.strerror or error})")
    raise UserError(
        f"the decoded images can be written neither to {' nor to '.join(refusals)}; "
        "make one of them writable or set XDG_CACHE_HOME"
    )


def load_array(path: Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """uint8 of that shape from the .npy file `path`, memory-mapped (copy on write).

    If there is none, or a damaged one (its sha256 lies beside it), `fill` is given a mapped array to write to, by one
    process at a time; the file appears under its name when it is complete. OSError where it cannot be written.
    """
    digest = path.with_suffix(".sha256")

    def found() -> np.ndarray | None:
        try:
            # Copy on write: torch wants writable memory, and the file stays as it is.
            array = np.load(path, mmap_mode="c", allow_pickle=False)
            if digest.read_bytes() != file_digest(path).encode():
                return None
        except (OSError, ValueError, EOFError):
            return None
        return array if array.shape == shape and array.dtype == np.uint8 else None

    if (array := found()) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), mode=SHARED):  # several jobs may start at once
            look_anew(path.parent)
            if found() is None:
                for leftover in path.parent.glob(f".{path.name}.*"):  # of a process that was killed while it wrote
                    leftover.unlink(missing_ok=True)
                with replacing(path) as part:
                    made = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
                    if hasattr(os, "posix_fallocate"):  # a full disk is an error here; in mapped memory, a crash
                        with open(part, "rb+") as file:
                            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
                    fill(made)
                    made.flush()
                    del made
                write_text(digest, file_digest(path))
        if (array := found()) is None:
            raise OSError("what was written does not read back")
    return array


def decode_all(
    images: EncodedImages, rows: Sequence[int], pixels: np.ndarray, done: Callable[[int], None] = lambda count: None
) -> None:
    """Fill `pixels` with the images at `rows`, on all cores (Pillow decodes outside of Python's lock)."""
    from torch.utils.data import get_worker_info

    def decode_chunk(start: int) -> int:
        chunk = rows[start : start + CHUNK]
        for place, row in enumerate(chunk, start):
            pixels[place] = images.crop(images.image(row), images.name(row))
        return len(chunk)

    threads = 1 if get_worker_info() is not None else min(16, usable_cores())  # 1 in a loader's reading process
    starts = range(0, len(rows), CHUNK)
    if threads == 1 or len(starts) == 1:
        for start in starts:
            done(decode_chunk(start))
        return
    pool = ThreadPoolExecutor(threads)
    try:
        for count in pool.map(decode_chunk, starts):
            done(count)
    finally:
        pool.shutdown(cancel_futures=True)
