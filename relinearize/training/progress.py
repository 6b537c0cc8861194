"""What a person sees while a stage trains: a bar on a terminal, elsewhere a plain line for each epoch."""

import sys
from typing import Any

import pytorch_lightning as pl
from rich.progress import Progress, TextColumn

from relinearize.progress import terminal_bar

SHOWN = {  # key of a history row -> how it is shown
    "relu/count": "{:,.0f} ReLUs",
    "lasso": "lasso {:.1e}",
    "train/loss": "loss {:.4f}",
    "train/accuracy": "train {:.1f} %",
    "val/accuracy": "hold-out {:.2f} %",
}


def metrics_line(row: dict[str, float]) -> str:
    return "  ".join(form.format(row[key]) for key, form in SHOWN.items() if row.get(key) is not None)


class StageProgress(pl.Callback):
    """`mode`: "bar", "lines", "none", or "auto" (a bar if standard error is a terminal)."""

    def __init__(self, mode: str = "auto") -> None:
        self.bar_wanted = mode == "bar" or (mode == "auto" and sys.stderr.isatty())
        self.lines_wanted = mode == "lines" or (mode == "auto" and not self.bar_wanted)
        self.bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
        if not self.bar_wanted:
            return
        self.bar = terminal_bar(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"), TextColumn("{task.fields[metrics]}")
        )
        self.bar.start()
        self.task = self.bar.add_task(
            stage.name,
            total=stage.epochs * stage.train_loader.batches_per_epoch,
            completed=trainer.fit_loop.total_batch_idx + 1,
            epoch=stage.position[0],
            epochs=stage.epochs,
            metrics="",
        )

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.fit_loop.total_batch_idx + 1, epoch=stage.position[0] + 1)

    def epoch_finished(self, stage: Any, row: dict[str, float]) -> None:
        """Called by the training with each complete row of the stage's history."""
        if self.bar is not None:
            self.bar.update(self.task, metrics=metrics_line(row))
        elif self.lines_wanted:
            epoch = f"{stage.name:11s} epoch {row['epoch'] + 1}/{stage.epochs}"
            line = f"{epoch}  {metrics_line(row)}  {row['seconds']:.1f} s"
            print(line, flush=True)  # a log file is read while the run goes on

    def on_train_end(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    on_exception = on_train_end
