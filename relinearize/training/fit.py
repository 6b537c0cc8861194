"""One Trainer.fit: the settings of the `trainer` group applied, resumed from the last checkpoint if there is one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from relinearize.methods.stage import Stage
from relinearize.training.checkpoint import LogRows
from relinearize.training.settings import TrainerSettings


def fit(
    stage: Stage,
    settings: TrainerSettings,
    checkpoint: Path,
    *,
    log_rows: LogRows = lambda history: None,
    lightning_logger: Callable[[], Any] = lambda: None,
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
    from relinearize.training.lightning import train  # importing Lightning takes seconds

    train(stage, settings, checkpoint, log_rows, lightning_logger)
