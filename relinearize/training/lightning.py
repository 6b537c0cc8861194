"""A stage under Lightning: the module that Lightning trains, its checkpoints, its strategy, and the Trainer itself.

Importing Lightning takes seconds, so that only what trains imports this file (see fit.py).
"""

import textwrap
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.enums import GradClipAlgorithmType
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from relinearize.convolution import on_winograd
from relinearize.errors import UserError, one_line
from relinearize.methods.stage.stage import Stage
from relinearize.processes import process_count, process_rank
from relinearize.training.checkpoint import LogRows, Unfit, read_checkpoint, write_checkpoint
from relinearize.training.progress import StageProgress
from relinearize.training.settings import TrainerSettings, cause_message, quiet_lightning
from relinearize.training.signals import DeferredSignals

# Lightning's calls that a stage takes as they are; with its own state dict a checkpoint names no wrapper.
HANDED_ON = (
    "configure_optimizers", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_save_checkpoint",
    "state_dict", "load_state_dict",
)  # fmt: skip


# What torch says of networks that it cannot train so -> what the user is told.
REFUSED_NETWORKS = {
    "Expected to have finished reduction": "weights of the network take no part in its loss; give trainer.devices=1",
    "marked with @once_differentiable": "its loss is differentiated twice; give trainer.convolutions=torch",
}


class LightningStage(pl.LightningModule):
    """A stage as Lightning wants it: its calls are handed on, and callbacks find the stage's attributes here.

    monitored: whether there are callbacks that may monitor the columns of the stage's history.
    """

    def __init__(self, stage: Stage, monitored: bool = False) -> None:
        super().__init__()
        self.stage, self.monitored = stage, monitored
        self.pause: Callable[[], None] = lambda: None
        for name in HANDED_ON:  # Lightning asks the instance; what its class defines, __getattr__ is not asked for
            setattr(self, name, getattr(stage, name))
        stage.train_by(self)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("stage"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What is an attribute of the stage, callbacks set there."""
        stage = self.__dict__.get("_modules", {}).get("stage")
        if stage is not None and name not in self.__dict__ and name in vars(stage):
            setattr(stage, name, value)
        else:
            super().__setattr__(name, value)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Unfit where the stage has changed since it was written."""
        try:
            self.stage.on_load_checkpoint(checkpoint)
            self.stage.load_state_dict(checkpoint["state_dict"])  # as Lightning will
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if "DefaultCPUAllocator" in str(error):  # no memory
                raise
            raise Unfit(textwrap.shorten(one_line(error), 200)) from error

    def train_dataloader(self) -> Any:
        return self.stage.train_loader

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """Compiled where the batch is whole: the odd sizes of last batches would take the compiler as long again.

        Of several processes each returns what, averaged over them, is the loss of all images of the batch.
        """
        whole = len(batch[0]) * process_count() == self.stage.batch_size
        with torch.compiler.set_stance("default") if whole else nullcontext():
            loss = self.stage.training_step(batch, batch_index)
        if process_count() == 1:
            return loss
        _, segment = self.stage.position
        return loss * self.stage.train_loader.weight(segment, batch_index)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.stage.on_before_optimizer_step()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's own refuses fused optimizers under bf16, as if the gradients were scaled."""
        if gradient_clip_val:
            kind = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(self.trainer.precision_plugin, optimizer, gradient_clip_val, kind)

    def on_train_epoch_end(self) -> None:
        self.stage.on_train_epoch_end()
        self.stage.between_epochs()
        if self.monitored and self.stage.history:  # EarlyStopping monitors val/accuracy, say
            row = {name: float(value) for name, value in self.stage.history[-1].items() if name != "epoch"}
            self.log_dict(row, logger=False)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints as files of this machine (see checkpoint.py); a callback's URLs are left to Lightning."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Path | str, map_location: Any = None, weights_only: Any = None) -> Any:
        return read_checkpoint(Path(path))


class SegmentCheckpoint(pl.callbacks.Checkpoint):
    """Saves the training at most once in `seconds`, within segments on one device, and always when it stops or a signal
    has come.

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
        if stage.history:  # of a stop within the end of an epoch, the last row was not logged
            self.log_rows(stage.history)
        self.signals.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, stage: Stage, outputs: Any, batch: Any, batch_index: int) -> None:
        # At the segment's last batch its end follows at once. Of several processes the others know of no signal, and
        # have sums of their own since the last end: they are saved at ends only. Gradients that wait for
        # further batches (accumulate_grad_batches) are in no checkpoint.
        stepped = (batch_index + 1) % trainer.accumulate_grad_batches == 0
        # A resumed segment does not begin anew, so that this callback would not be asked.
        varies = any(isinstance(callback, pl.callbacks.GradientAccumulationScheduler) for callback in trainer.callbacks)
        due = self.signals.arrived or 0 < self.seconds <= time.monotonic() - self.saved_at
        if due and stepped and not varies and not trainer.is_last_batch and process_count() == 1:
            self.save(trainer)
            self.signals.handle()

    def save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.saved_at = time.monotonic()

    def pause(self, trainer: pl.Trainer) -> None:
        """Between two segments."""
        if self.signals.arrived or time.monotonic() - self.saved_at >= self.seconds:
            self.save(trainer)
        self.signals.handle()

    def on_train_epoch_end(self, trainer: pl.Trainer, stage: Stage) -> None:
        while self.rows_seen < len(stage.history):
            self.rows_seen += 1
            self.progress.epoch_finished(stage, stage.history[self.rows_seen - 1])
            self.log_rows(stage.history[: self.rows_seen])
        last = stage.current_epoch + 1 == stage.epochs * stage.segments
        due = time.monotonic() - self.saved_at >= self.seconds
        if trainer.should_stop or last or due or self.signals.arrived:
            self.save(trainer)
        self.signals.handle()


class DataParallel(SingleDeviceStrategy):
    """The training of one of several processes, whose gradients are averaged in each step.

    To Lightning each of them is one on its own. Its DDPStrategy would wait for the GPU in every step, to learn whether
    some process had a signal, and makes every save a meeting of all processes.
    """

    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        device = [self.root_device] if self.root_device.type == "cuda" else None
        # Buffers: masks are the same everywhere anyway; batch-norm statistics are averaged at segment ends.
        self.model = DistributedDataParallel(self.model, device_ids=device, broadcast_buffers=False)

    def teardown(self) -> None:
        super().teardown()
        # DDP holds the process group. Left in the trainer's cycles, a process forked later (a reading worker) might
        # free it, and wait for threads that it does not have.
        self.model = None


def devices_of_process(accelerator: str) -> dict[str, Any]:
    """Lightning's arguments for where this process trains: alone, or as one of several."""
    if process_count() == 1:
        return {"devices": 1}
    if accelerator == "cpu":
        return {"devices": 1, "strategy": DataParallel("cpu")}
    return {"devices": [process_rank()], "strategy": DataParallel(torch.device("cuda", process_rank()))}


def train(
    stage: Stage,
    settings: TrainerSettings,
    checkpoint: Path,
    *,
    log_rows: LogRows = lambda history: None,
    lightning_logger: Callable[[], Logger | None] = lambda: None,
) -> None:
    """One Trainer.fit with the settings of the `trainer` group, from `checkpoint` if that file exists, saving to it.

    Several processes (see devices.py) call it at the same time, each with a stage of its own; all but the first show
    and save nothing.

    Args:
        log_rows: called after each epoch with the rows of the stage's history so far.
        lightning_logger: the logger of callbacks of the `callbacks` group; called if there are any.
    """
    networks = (stage.network, *stage._frozen)
    stage.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    for network in networks:
        network.to(memory_format=stage.memory_format)
    if settings.compile:
        # Graphs of the stages before would be taken for those of this one: the compiler does not look at hooks.
        torch.compiler.reset()
        # CUDA graphs write over what they gave before: they are for a network that is called once a step.
        graphs = isinstance(settings.compile, str) and not stage.routed
        for network in networks:
            network.compile(mode=settings.compile if graphs and network is stage.network else None, dynamic=False)
    first = process_rank() == 0
    callbacks: list[pl.Callback] = settings.new_callbacks(watching=first)
    if first:
        progress = StageProgress(settings.progress)
        saving = SegmentCheckpoint(checkpoint, settings.checkpoint_seconds, progress, log_rows)
        callbacks += [progress, saving]
    quiet_lightning()
    given = settings.lightning_arguments()
    defaults = {
        # cuDNN tries its algorithms once: the shapes of the batches stay. The fastest may not be deterministic.
        "benchmark": settings.accelerator == "cuda" and not given.get("deterministic"),
        "default_root_dir": checkpoint.parent,
    }
    trainer = pl.Trainer(
        accelerator="gpu" if settings.accelerator == "cuda" else "cpu",
        **devices_of_process(settings.accelerator),
        precision={"32": "32-true", "bf16": "bf16-mixed"}[settings.precision],
        max_epochs=stage.epochs * stage.segments,
        callbacks=callbacks,
        enable_checkpointing=first,
        logger=(first and settings.callbacks and lightning_logger()) or False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # In a job of Slurm, too: whoever submitted it queues it again, and its tasks are no processes of a training.
        plugins=[WholeFiles(), LightningEnvironment()],
        **defaults | given,
    )
    resume = {"ckpt_path": checkpoint, "weights_only": True} if checkpoint.is_file() else {}
    fast = on_winograd(*networks) if settings.convolutions == "winograd" else nullcontext()
    # Whole batches alone run compiled (see training_step): scores, validation and hooks on sites need no graphs.
    with warnings.catch_warnings(), fast, torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        # Its successor does not exist in the oldest torch that is allowed.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        warnings.filterwarnings("ignore", message=".*sync_dist.*")  # every process has the sums of all
        try:
            module = LightningStage(stage, monitored=bool(settings.callbacks))
            if first:
                module.pause = partial(saving.pause, trainer)
            trainer.fit(module, **resume)
        except (MisconfigurationException, ModuleNotFoundError, RuntimeError) as error:
            for part, remedy in REFUSED_NETWORKS.items():
                if part in str(error) and (settings.convolutions == "winograd" or "devices" in remedy):
                    raise UserError(f"stage {stage.name}: {remedy}") from error
            if settings.compile and isinstance(error, torch._dynamo.exc.BackendCompilerFailed):
                raise UserError(
                    f"stage {stage.name}: torch.compile failed ({cause_message(error.inner_exception)}); "
                    "give trainer.compile=false, or install a C compiler and Python's headers"
                ) from error
            other = isinstance(error, RuntimeError) and not str(error).startswith("Early stopping conditioned")
            if other or (not settings.lightning and not settings.callbacks):
                raise
            raise UserError(f"trainer.lightning or callbacks, in stage {stage.name}: {cause_message(error)}") from error
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            raise KeyboardInterrupt from None  # of which Lightning has made an exit
