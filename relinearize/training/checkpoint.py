"""The checkpoint of a stage: the whole state of its training, written within and at the ends of segments.

Written and read here: Lightning's own files pass through $TMPDIR, which may be small, and through fsspec, to which `::`
and `://` in a path mean other file systems.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from relinearize.errors import UserError
from relinearize.files import write_bytes
from relinearize.progress import say

MARK = "relinearize"  # the one key of a checkpoint of ours
# Called after each epoch with the rows of the stage so far; the last one is new.
LogRows = Callable[[list[dict[str, float]]], None]


class Unfit(UserError):
    """A checkpoint of ours that the stage cannot go on from: one of an earlier version of it."""


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Of several processes, the first alone calls it."""
    content = io.BytesIO()
    torch.save({MARK: state}, content)  # not into the file: torch's writer makes a RuntimeError of a full disk
    write_bytes(path, content.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path` (plain types and tensors only), or None if there is none.

    A damaged one, or one of another program, is removed, which is said: its training starts again. It stays where
    reading fails for another reason, say for lack of memory.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        # torch.load does not look at the checksums that torch.save writes: a file of zeros would be weights of zeros.
        damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        damaged = str(error)
    if damaged is None:
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)[MARK]
        except (pickle.UnpicklingError, KeyError, TypeError, IndexError) as error:  # whole, but none of ours
            damaged = type(error).__name__
        except RuntimeError as error:
            if not any(reader in str(error) for reader in ("PytorchStreamReader", "inline_container")):
                raise
            damaged = "a zip file of another program"
    say(f"{path} is damaged ({damaged}): this training starts again")
    path.unlink()
    return None
