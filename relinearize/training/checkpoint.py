"""The checkpoint of a stage: the whole state of its training, written at segment ends and when a signal has come.

Written and read here: Lightning's own files pass through $TMPDIR, which may be small, and through fsspec, to which `::`
and `://` in a path mean other file systems.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from relinearize.files import write_bytes

CHECKPOINT = "last.ckpt"
# Called after each epoch with the rows of the stage so far; the last one is new.
LogRows = Callable[[list[dict[str, float]]], None]


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Of several processes, the first alone calls it."""
    content = io.BytesIO()
    torch.save(state, content)  # not into the file: torch's writer makes a RuntimeError of a full disk
    write_bytes(path, content.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path` (plain types and tensors only), or None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
