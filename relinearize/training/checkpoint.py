"""The checkpoint of a stage: the whole state of its training, written at segment ends and when a signal has come."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from relinearize.files import replacing
from relinearize.methods.processes import process_count
from relinearize.methods.stage import Stage
from relinearize.training.progress import StageProgress
from relinearize.training.signals import DeferredSignals

CHECKPOINT = "last.ckpt"
# Called after each epoch with the rows of the stage so far; the last one is new.
LogRows = Callable[[list[dict[str, float]]], None]


class SegmentCheckpoint(pl.callbacks.Checkpoint):
    """Saves the training at segment ends, at most once in `seconds`, and always when it stops or a signal has come.

    A signal is handled at the end of the batch, after the save: nothing that was trained is lost.

    A Checkpoint callback: Lightning calls it after the stage's own hooks, so the saved state is that of the segment's
    end. The file is replaced by one rename: a kill while writing leaves the previous one.
    """

    def __init__(self, path: Path, seconds: float, progress: StageProgress, log_rows: LogRows) -> None:
        self.path, self.seconds = path, seconds
        self.progress, self.log_rows = progress, log_rows
        self.saved_at = time.monotonic()
        self.rows_seen = 0
        self.signals = DeferredSignals()

    def on_train_start(self, trainer: pl.Trainer, stage: Stage) -> None:
        self.rows_seen = len(stage.history)
        self.signals.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Stage, outputs: Any, batch: Any, batch_index: int) -> None:
        # At the segment's last batch its end follows at once. Of several processes the others know of no signal, and
        # have sums of their own since the last end: they are stopped at ends only. Gradients that wait for
        # further batches (accumulate_grad_batches) are in no checkpoint.
        stepped = (batch_index + 1) % trainer.accumulate_grad_batches == 0
        if self.signals.arrived and stepped and not trainer.is_last_batch and process_count() == 1:
            save_checkpoint(trainer, self.path)
            self.signals.handle()

    def on_train_epoch_end(self, trainer: pl.Trainer, stage: Stage) -> None:
        while self.rows_seen < len(stage.history):
            self.rows_seen += 1
            self.progress.epoch_finished(stage, stage.history[self.rows_seen - 1])
            self.log_rows(stage.history[: self.rows_seen])
        last = stage.current_epoch + 1 == stage.epochs * stage.segments
        due = time.monotonic() - self.saved_at >= self.seconds
        if trainer.should_stop or last or due or self.signals.arrived:
            save_checkpoint(trainer, self.path)
            self.saved_at = time.monotonic()
        self.signals.handle()


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    """Of several processes, the first alone calls it."""
    with replacing(path) as temporary:
        trainer.save_checkpoint(temporary)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path` (plain types and tensors only), or None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
