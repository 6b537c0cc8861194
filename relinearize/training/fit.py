"""One Trainer.fit: the settings of the `trainer` group applied, resumed from the last checkpoint if there is one."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from relinearize.convolution import on_winograd
from relinearize.errors import UserError
from relinearize.methods.processes import process_rank
from relinearize.methods.stage import Stage
from relinearize.training.checkpoint import LogRows, SegmentCheckpoint
from relinearize.training.devices import devices_of_process
from relinearize.training.progress import StageProgress
from relinearize.training.settings import TrainerSettings, one_line, quiet_lightning


def fit(
    stage: Stage,
    settings: TrainerSettings,
    checkpoint: Path,
    *,
    log_rows: LogRows = lambda history: None,
    lightning_logger: Callable[[], Logger | None] = lambda: None,
) -> None:
    """Train `stage` to its end, from `checkpoint` if that file exists, saving to it.

    Without epochs nothing is done. Several processes (see devices.py) call it at the same time, each with a stage of
    its own; all but the first show and save nothing.

    Args:
        log_rows: called after each epoch with the rows of the stage's history so far.
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
    callbacks: list[pl.Callback] = settings.new_callbacks(watching=first)
    if first:
        progress = StageProgress(settings.progress)
        callbacks += [progress, SegmentCheckpoint(checkpoint, settings.checkpoint_seconds, progress, log_rows)]
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
        enable_checkpointing=first,
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
            if not settings.lightning and not settings.callbacks:
                raise
            raise UserError(f"trainer.lightning or callbacks, in stage {stage.name}: {one_line(error)}") from error
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            raise KeyboardInterrupt from None  # of which Lightning has made an exit
