"""What a person sees while a stage trains: a bar on a terminal, elsewhere a plain line for each epoch."""

from typing import Any

import pytorch_lightning as pl
from rich.progress import TextColumn

from relinearize.progress import stop, terminal_bar

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
        columns = ("epoch {task.fields[epoch]}/{task.fields[epochs]}", "{task.fields[metrics]}")
        self.bar = terminal_bar(*map(TextColumn, columns), shown=None if mode == "auto" else mode == "bar")
        self.lines = mode == "lines" or (mode == "auto" and self.bar.disable)

    def on_train_start(self, trainer: pl.Trainer, stage: Any) -> None:
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
        self.bar.update(self.task, completed=trainer.fit_loop.total_batch_idx + 1, epoch=stage.position[0] + 1)

    def epoch_finished(self, stage: Any, row: dict[str, float]) -> None:
        """Called by the training with each complete row of the stage's history."""
        self.bar.update(self.task, metrics=metrics_line(row))
        if self.lines:
            epoch = f"{stage.name:11s} epoch {row['epoch'] + 1}/{stage.epochs}"
            line = f"{epoch}  {metrics_line(row)}  {row['seconds']:.1f} s"
            print(line, flush=True)  # a log file is read while the run goes on

    def on_train_end(self, *_: Any) -> None:
        stop(self.bar)

    on_exception = on_train_end
