"""One Trainer.fit: the settings of the `trainer` group applied, resumed from the last checkpoint if there is one."""

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment

from relinearize.errors import UserError
from relinearize.experiment.deferred_signals import DeferredSignals
from relinearize.experiment.progress import StageProgress
from relinearize.methods.stage import Stage

CHECKPOINT = "last.ckpt"
PRECISIONS = ("auto", "32", "bf16")


def resolve_accelerator(accelerator: str) -> str:
    """ "cuda" or "cpu"; "auto" takes CUDA where there is one."""
    if accelerator not in ("auto", "cpu", "cuda", "gpu"):
        raise UserError(f"trainer.accelerator={accelerator} is unknown; valid: auto, cpu, cuda")
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if accelerator == "auto":
        return "cpu"
    raise UserError(f"trainer.accelerator={accelerator} but torch sees no CUDA device; valid here: auto, cpu")


def resolve_precision(precision: Any, accelerator: str) -> str:
    """ "32" or "bf16" (autocast); "auto": bf16 on CUDA, 32 elsewhere."""
    if str(precision) not in PRECISIONS:
        raise UserError(f"trainer.precision={precision} is unknown; valid: {', '.join(PRECISIONS)}")
    if str(precision) == "auto":
        return "bf16" if accelerator == "cuda" else "32"
    return str(precision)


def check_settings(settings: Any) -> None:
    """UserError for values of the `trainer` group that only a started training would trip over."""
    valid = {"compile": ("auto", True, False), "progress": ("auto", "bar", "lines", "none")}
    for key, values in valid.items():
        if not any(settings[key] is value or settings[key] == value for value in values):
            raise UserError(f"trainer.{key}={settings[key]} is unknown; valid: {', '.join(map(str, values)).lower()}")
    if settings.devices != 1:
        # Each process of a DDP launch would run the whole pipeline and wait for the first one's locks.
        raise UserError(f"trainer.devices={settings.devices}: one run trains on one device so far; give 1")


class SegmentCheckpoint(pl.callbacks.Checkpoint):
    """Saves the training at segment ends, at most once in `seconds`, and always when it stops or a signal has come.

    A signal is answered at the end of the batch, after the save: nothing that was trained is lost.

    A Checkpoint callback: Lightning calls it after the stage's own hooks, so the saved state is that of the segment's
    end. The file is replaced by one rename: a kill while writing leaves the former one.
    """

    def __init__(self, path: Path, seconds: float, progress: StageProgress, log_row: Any) -> None:
        self.path, self.seconds = path, seconds
        self.progress, self.log_row = progress, log_row
        self.saved_at = time.monotonic()
        self.rows_seen: int | None = None
        self.signals = DeferredSignals()

    def on_train_start(self, trainer: pl.Trainer, stage: Stage) -> None:
        self.rows_seen = len(stage.history)
        self.signals.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Stage, *_: Any) -> None:
        if self.signals.arrived and not trainer.is_last_batch:  # else the segment's end follows at once
            save_checkpoint(trainer, self.path)
            self.signals.handle()

    def on_train_epoch_end(self, trainer: pl.Trainer, stage: Stage) -> None:
        for row in stage.history[self.rows_seen :]:
            self.progress.epoch_finished(stage, row)
            self.log_row(stage, row)
        self.rows_seen = len(stage.history)
        last = stage.current_epoch + 1 == stage.epochs * stage.segments
        due = time.monotonic() - self.saved_at >= self.seconds
        if trainer.should_stop or last or due or self.signals.arrived:
            save_checkpoint(trainer, self.path)
            self.saved_at = time.monotonic()
        self.signals.handle()


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    trainer.save_checkpoint(temporary)
    if trainer.is_global_zero:
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path` (plain types and tensors only), or None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def fit(stage: Stage, settings: Any, checkpoint: Path, *, log_row: Any = lambda stage, row: None) -> None:
    """Train `stage` to its end, from `checkpoint` if that file exists, saving to it.

    `settings`: the `trainer` group, resolved (accelerator, devices, precision, channels_last, compile,
    checkpoint_seconds, progress). Without epochs nothing is done.
    """
    if not stage.epochs:
        return
    accelerator = resolve_accelerator(settings.accelerator)
    precision = resolve_precision(settings.precision, accelerator)
    stage.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    for network in (stage.network, *stage._frozen):
        network.to(memory_format=stage.memory_format)
    if settings.compile is True or (settings.compile == "auto" and accelerator == "cuda"):
        # Graphs of the stages before would be taken for those of this one: the compiler does not look at hooks.
        torch.compiler.reset()
        for network in (stage.network, *stage._frozen):
            network.compile()
    progress = StageProgress(settings.progress)
    quiet_lightning()
    trainer = pl.Trainer(
        accelerator="gpu" if accelerator == "cuda" else "cpu",
        devices=settings.devices,
        precision={"32": "32-true", "bf16": "bf16-mixed"}[precision],
        max_epochs=stage.epochs * stage.segments,
        callbacks=[progress, SegmentCheckpoint(checkpoint, settings.checkpoint_seconds, progress, log_row)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        benchmark=accelerator == "cuda",  # cuDNN tries its algorithms once: the shapes of the batches stay
        # In a job of Slurm: whoever submitted it queues it again, Lightning must not.
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
    )
    resume = {"ckpt_path": checkpoint, "weights_only": True} if checkpoint.is_file() else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        try:
            trainer.fit(stage, **resume)
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            raise KeyboardInterrupt from None  # of which Lightning has made an exit


def quiet_lightning() -> None:
    """Lightning announces devices and tips at every fit; three fits a run make that noise."""
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*srun. command is available.*")  # on a login node, at every fit
