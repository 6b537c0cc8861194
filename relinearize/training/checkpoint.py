"""The checkpoint of a stage: the whole state of its training, written at segment ends and when a signal has come."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from relinearize.files import replacing

CHECKPOINT = "last.ckpt"
# Called after each epoch with the rows of the stage so far; the last one is new.
LogRows = Callable[[list[dict[str, float]]], None]


def save_checkpoint(trainer: Any, path: Path) -> None:
    """Of several processes, the first alone calls it."""
    with replacing(path) as temporary:
        trainer.save_checkpoint(temporary)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path` (plain types and tensors only), or None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
