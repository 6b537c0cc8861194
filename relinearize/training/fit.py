"""One Trainer.fit: the settings of the `trainer` group applied, resumed from the last checkpoint if there is one."""

import logging
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.nn.parallel import DistributedDataParallel

from relinearize.convolution import on_winograd, resolve_convolutions
from relinearize.errors import UserError
from relinearize.files import replacing
from relinearize.methods.processes import process_count, process_rank
from relinearize.methods.stage import Stage
from relinearize.training.progress import StageProgress
from relinearize.training.signals import DeferredSignals

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


def compiles(settings: Any, accelerator: str) -> bool:
    """Whether networks go through torch.compile."""
    return settings.compile is True or (settings.compile == "auto" and accelerator == "cuda")


def convolutions(settings: Any) -> str:
    """ "winograd" or "torch": what a training with these settings of the `trainer` group convolves with."""
    accelerator = resolve_accelerator(settings.accelerator)
    precision = resolve_precision(settings.precision, accelerator)
    plain = precision == "32" and settings.channels_last and not compiles(settings, accelerator)
    return resolve_convolutions(settings.convolutions, possible=accelerator == "cpu" and plain)


def check_settings(settings: Any) -> None:
    """UserError for values of the `trainer` group that only a started training would trip over."""
    valid = {"compile": ("auto", True, False), "progress": ("auto", "bar", "lines", "none")}
    for key, values in valid.items():
        if not any(settings[key] is value or settings[key] == value for value in values):
            raise UserError(f"trainer.{key}={settings[key]} is unknown; valid: {', '.join(map(str, values)).lower()}")
    convolutions(settings)
    devices = settings.devices
    if type(devices) is not int or devices < 1:
        raise UserError(f"trainer.devices={devices} is no number of devices; give a whole number of at least 1")
    if devices > 1 and resolve_accelerator(settings.accelerator) == "cuda" and devices > torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"trainer.devices={devices} but torch sees {found} CUDA device(s); give at most {found}")


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
        # At the segment's last batch its end follows at once. Of several processes the others know of no signal, and
        # what they have added up since the last end is theirs: they are stopped at ends only.
        if self.signals.arrived and not trainer.is_last_batch and process_count() == 1:
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


class DataParallel(SingleDeviceStrategy):
    """The training of one of several processes, whose gradients are averaged in each step.

    To Lightning each of them is one on its own. Lightning's strategy of this kind would wait for the GPU in every step,
    to learn whether some process had a signal.
    """

    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        cards = [self.root_device] if self.root_device.type == "cuda" else None
        # Buffers: masks are the same everywhere anyway; batch-norm statistics are averaged at segment ends.
        self.model = DistributedDataParallel(self.model, device_ids=cards, broadcast_buffers=False)


def devices_of_process(accelerator: str) -> dict[str, Any]:
    """Lightning's arguments for where this process trains: alone, or as one of several."""
    if process_count() == 1:
        return {"devices": 1}
    if accelerator == "cpu":
        return {"devices": 1, "strategy": DataParallel("cpu")}
    return {"devices": [process_rank()], "strategy": DataParallel(torch.device("cuda", process_rank()))}


def save_checkpoint(trainer: pl.Trainer, path: Path) -> None:
    if trainer.is_global_zero:
        with replacing(path) as temporary:
            trainer.save_checkpoint(temporary)
    else:
        trainer.save_checkpoint(path)  # takes part in gathering the state, and writes nothing


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint at `path` (plain types and tensors only), or None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def fit(stage: Stage, settings: Any, checkpoint: Path, *, log_row: Any = lambda stage, row: None) -> None:
    """Train `stage` to its end, from `checkpoint` if that file exists, saving to it.

    `settings`: the `trainer` group, resolved (accelerator, precision, channels_last, compile, convolutions,
    checkpoint_seconds, progress). Without epochs nothing is done. Several processes (see peers.py) call it at the same
    time, each with a stage of its own; all but the first show and save nothing.
    """
    if not stage.epochs:
        return
    accelerator = resolve_accelerator(settings.accelerator)
    precision = resolve_precision(settings.precision, accelerator)
    stage.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    for network in (stage.network, *stage._frozen):
        network.to(memory_format=stage.memory_format)
    if compiles(settings, accelerator):
        # Graphs of the stages before would be taken for those of this one: the compiler does not look at hooks.
        torch.compiler.reset()
        for network in (stage.network, *stage._frozen):
            network.compile()
    progress = StageProgress(settings.progress)
    callbacks = [progress, SegmentCheckpoint(checkpoint, settings.checkpoint_seconds, progress, log_row)]
    first = process_rank() == 0
    quiet_lightning()
    trainer = pl.Trainer(
        accelerator="gpu" if accelerator == "cuda" else "cpu",
        **devices_of_process(accelerator),
        precision={"32": "32-true", "bf16": "bf16-mixed"}[precision],
        max_epochs=stage.epochs * stage.segments,
        callbacks=callbacks if first else [],
        enable_checkpointing=first,
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
    fast = on_winograd(stage.network, *stage._frozen) if convolutions(settings) == "winograd" else nullcontext()
    with warnings.catch_warnings(), fast:
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        # Its successor does not exist in the oldest torch that is allowed.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
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
