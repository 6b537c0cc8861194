"""Arrays that are generated once and kept on disk, each complete or absent."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from relinearize.errors import UserError
from relinearize.files import replacing, write_text


class ArrayCache:
    """`folder/<sha256 of content>/<name>.npy`; `content`, plain data, is all that the arrays depend on.

    Two processes may write the same array: each its own file, then one rename; the later one replaces its equal.
    """

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        text = json.dumps(content, sort_keys=True, indent=1)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._text = text

    def load(self, name: str, shape: tuple[int, ...], make: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
        """uint8 of that shape, memory-mapped and read-only; pieces of it come from `make` if it is not there.

        Raises UserError if the folder cannot be written.
        """
        path = self.folder / f"{name}.npy"
        if (found := open_array(path, shape)) is not None:
            return found
        try:
            write_text(self.folder / "content.json", self._text + "\n")
            write_array(path, shape, make())
        except OSError as error:
            raise UserError(
                f"corruptions.cache: {path} cannot be written ({error.strerror or error}); "
                "name a folder with room, or null for no cache"
            ) from error
        return np.load(path, mmap_mode="r", allow_pickle=False)


def open_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array, if it is there and complete."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.uint8 else None


def write_array(path: Path, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
    """A .npy of uint8 from pieces along its first axis; under its name when it is complete. Never all in memory."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece))
