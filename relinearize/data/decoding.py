"""From image files to one array of bytes, decoded once and kept as .npy beside the files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from relinearize.errors import UserError
from relinearize.files import replacing, write_json
from relinearize.progress import WorkProgress

CACHE_VERSION = 1  # raise it when the same files would be decoded to other bytes
CHUNK = 256  # files per task


class ImageFile(NamedTuple):
    """One labelled file; `key` names it within the set whatever the layout of the folders, size is in bytes."""

    path: str
    key: str
    size: int
    label: int


def list_digest(files: Sequence[ImageFile], image_size: int) -> str:
    """sha256 over the sorted (key, size in bytes) of the files and the size they are decoded to.

    Reading the files themselves would take minutes on a cluster's file system; a file replaced by another of the very
    same length goes unnoticed.
    """
    content = hashlib.sha256(f"{CACHE_VERSION} {image_size}\n".encode())
    content.update("".join(f"{key}\0{size}\n" for key, size in sorted((f.key, f.size) for f in files)).encode())
    return content.hexdigest()


def load_decoded(files: Sequence[ImageFile], image_size: int, *, exact: bool, home: Path, split: str) -> np.ndarray:
    """The images in the order of `files`, uint8 N x image_size x image_size x 3, memory-mapped (copy on write).

    exact: refuse images of another size instead of resizing and cropping them. home: the folder of the set; the cache
    lies in `home/.relinearize/`, or in the user's cache folder where that cannot be written. The name of a cache file
    holds the digest of the file list, so one that does not fit the files is never read; it is removed when the new one
    is written. Raises UserError naming the file that cannot be decoded, or the folders that cannot be written.
    """
    digest = list_digest(files, image_size)
    shape = (len(files), image_size, image_size, 3)
    refusals = []
    for folder in cache_folders(home):
        array = folder / f"{split}-{image_size}px-{digest[:16]}.npy"
        try:
            if (found := open_cache(array, digest, shape)) is not None:
                return found
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(array.with_suffix(".lock")):  # several jobs may start at once: one decodes
                if open_cache(array, digest, shape) is None:
                    write_cache(array, digest, files, image_size, exact)
            if (found := open_cache(array, digest, shape)) is not None:
                return found
            refusals.append(f"{folder} (what was written does not read back)")
        except OSError as error:
            refusals.append(f"{folder} ({error.strerror or error})")
    raise UserError(
        f"the decoded images can be written neither to {' nor to '.join(refusals)}; "
        "make one of them writable or set XDG_CACHE_HOME"
    )


def cache_folders(home: Path) -> list[Path]:
    """Where the decoded images of a set may lie, best place first."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    return [home / ".relinearize", user / "relinearize" / f"{home.name}-{place}"]


def open_cache(array: Path, digest: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached images if array and sidecar are there, whole, and of these files; None otherwise."""
    try:
        note = json.loads(array.with_suffix(".json").read_text())
        # Copy on write: torch wants writable memory, and the file stays as it is.
        found = np.load(array, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    matches = isinstance(note, dict) and note.get("files") == digest and note.get("version") == CACHE_VERSION
    return found if matches and found.shape == shape and found.dtype == np.uint8 else None


def write_cache(array: Path, digest: str, files: Sequence[ImageFile], image_size: int, exact: bool) -> None:
    """Decode all files; the array appears under its name when it is complete, its sidecar after it."""
    with replacing(array) as part:
        pixels = np.lib.format.open_memmap(part, "w+", np.uint8, (len(files), image_size, image_size, 3))
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later, in mapped memory, it would be a crash
            with open(part, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        decode_all(files, pixels, exact, description=f"decoding {array.parent.parent.name} {array.name.split('-')[0]}")
        pixels.flush()
        del pixels
    note = {"version": CACHE_VERSION, "files": digest, "images": len(files), "image_size": image_size}
    write_json(array.with_suffix(".json"), note)
    kind = "-".join(array.name.split("-")[:2])
    for stale in array.parent.glob(f"{kind}-*.*"):
        if stale.stem != array.stem:
            stale.unlink(missing_ok=True)


def decode_all(files: Sequence[ImageFile], pixels: np.ndarray, exact: bool, description: str) -> None:
    """Fill `pixels` from the files, on all cores (Pillow decodes outside of Python's lock)."""

    def decode_chunk(start: int) -> int:
        chunk = files[start : start + CHUNK]
        for offset, file in enumerate(chunk):
            pixels[start + offset] = decode(Path(file.path), pixels.shape[1], exact)
        return len(chunk)

    threads = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    try:
        with WorkProgress(len(files), unit="images", transient=True) as progress:
            progress.begins(description)
            for done in as_completed([pool.submit(decode_chunk, start) for start in range(0, len(files), CHUNK)]):
                progress.done(done.result())
    finally:
        pool.shutdown(cancel_futures=True)


def decode(path: Path, image_size: int, exact: bool) -> np.ndarray:
    """One file as uint8 image_size x image_size x 3; grey, palette and CMYK images become RGB.

    Unless `exact`, the shorter side is resized (bilinear, antialiased) and the centre cropped.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(f"{path}: cannot be decoded ({error}); replace or remove this image") from error
    width, height = image.size
    if (width, height) != (image_size, image_size):
        if exact:
            raise UserError(f"{path}: is {width} x {height} pixels, expected {image_size} x {image_size}")
        scale = image_size / min(width, height)
        width, height = max(image_size, round(width * scale)), max(image_size, round(height * scale))
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image)
