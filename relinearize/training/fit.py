"""One Trainer.fit: the settings of the `trainer` group applied, resumed from the last checkpoint if there is one."""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from relinearize.convolution import on_winograd
from relinearize.errors import UserError
from relinearize.files import replacing
from relinearize.methods.processes import process_count, process_rank
from relinearize.methods.stage import Stage
from relinearize.training.devices import devices_of_process
from relinearize.training.progress import StageProgress
from relinearize.training.settings import TrainerSettings, one_line, quiet_lightning
from relinearize.training.signals import DeferredSignals

CHECKPOINT = "last.ckpt"
LogRow = Callable[[Stage, dict[str, float]], None]


class SegmentCheckpoint(pl.callbacks.Checkpoint):
    """Saves the training at segment ends, at most once in `seconds`, and always when it stops or a signal has come.

    A signal is answered at the end of the batch, after the save: nothing that was trained is lost.

    A Checkpoint callback: Lightning calls it after the stage's own hooks, so the saved state is that of the segment's
    end. The file is replaced by one rename: a kill while writing leaves the former one.
    """

    def __init__(self, path: Path, seconds: float, progress: StageProgress, log_row: LogRow) -> None:
        self.path, self.seconds = path, seconds
        self.progress, self.log_row = progress, log_row
        self.saved_at = time.monotonic()
        self.rows_seen: int | None = None
        self.signals = DeferredSignals()

    def on_train_start(self, trainer: pl.Trainer, stage: Stage) -> None:
        self.rows_seen = len(stage.history)
        self.signals.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Stage, outputs: Any, batch: Any, batch_index: int) -> None:
        # At the segment's last batch its end follows at once. Of several processes the others know of no signal, and
        # what they have added up since the last end is theirs: they are stopped at ends only. Gradients that wait for
        # further batches (accumulate_grad_batches) are in no checkpoint.
        stepped = (batch_index + 1) % trainer.accumulate_grad_batches == 0
        if self.signals.arrived and stepped and not trainer.is_last_batch and process_count() == 1:
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
    """Of several processes, the first alone calls it."""
    with replacing(path) as temporary:
        trainer.save_checkpoint(temporary)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path` (plain types and tensors only), or None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def fit(
    stage: Stage,
    settings: TrainerSettings,
    checkpoint: Path,
    *,
    log_row: LogRow = lambda stage, row: None,
    lightning_logger: Callable[[], Logger | None] = lambda: None,
) -> None:
    """Train `stage` to its end, from `checkpoint` if that file exists, saving to it.

    Without epochs nothing is done. Several processes (see devices.py) call it at the same time, each with a stage of
    its own; all but the first show and save nothing.

    Args:
        log_row: called with each complete row of the stage's history.
        lightning_logger: the logger of callbacks of the `callbacks` group; called if there are any.
    """
    if not stage.epochs:
        return
    networks = (stage.network, *stage._frozen)
    stage.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    for network in networks:
        network.to(memory_format=stage.memory_format)
    if settings.compile:
        # Graphs of the stages before would be taken for those of this one: the compiler does not look at hooks.
        torch.compiler.reset()
        for network in networks:
            network.compile()
    first = process_rank() == 0
    callbacks: list[pl.Callback] = settings.new_callbacks()
    if first:
        progress = StageProgress(settings.progress)
        callbacks += [progress, SegmentCheckpoint(checkpoint, settings.checkpoint_seconds, progress, log_row)]
    quiet_lightning()
    defaults = {
        "benchmark": settings.accelerator == "cuda",  # cuDNN tries its algorithms once: the shapes of the batches stay
        "default_root_dir": checkpoint.parent,
    }
    trainer = pl.Trainer(
        accelerator="gpu" if settings.accelerator == "cuda" else "cpu",
        **devices_of_process(settings.accelerator),
        precision={"32": "32-true", "bf16": "bf16-mixed"}[settings.precision],
        max_epochs=stage.epochs * stage.segments,
        callbacks=callbacks,
        enable_checkpointing=True,
        logger=(first and settings.callbacks and lightning_logger()) or False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # In a job of Slurm: whoever submitted it queues it again, Lightning must not.
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        **defaults | settings.lightning_arguments(),
    )
    resume = {"ckpt_path": checkpoint, "weights_only": True} if checkpoint.is_file() else {}
    fast = on_winograd(*networks) if settings.convolutions == "winograd" else nullcontext()
    with warnings.catch_warnings(), fast:
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        # Its successor does not exist in the oldest torch that is allowed.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        try:
            trainer.fit(stage, **resume)
        except (MisconfigurationException, ModuleNotFoundError) as error:
            raise UserError(f"trainer.lightning or callbacks, in stage {stage.name}: {one_line(error)}") from error
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            raise KeyboardInterrupt from None  # of which Lightning has made an exit
