"""Where the rows of a training go while it runs: history.csv beside the checkpoint, or W&B.

Chosen by the `logger` group. The records do not depend on it: they are made from the stage's own history.
"""

import csv
import io
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from relinearize.files import write_text
from relinearize.records.run import Record
from relinearize.tracking.interface import LoggerSettings, StageInfo, StageLogger


class CSVLogger(StageLogger):
    """history.csv in the stage's folder: rewritten completely each epoch, so that a resumed run leaves no row twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, history: list[dict[str, float]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(key for row in history for key in row)))
        writer.writeheader()
        writer.writerows(history)
        write_text(self.folder / "history.csv", text.getvalue())

    def lightning(self) -> Any:
        """lightning/version_N/metrics.csv beside it, one for each time that the training was started."""
        from pytorch_lightning import loggers

        return loggers.CSVLogger(self.folder, name="lightning")


def open_logger(settings: LoggerSettings, info: StageInfo, folder: Path) -> AbstractContextManager[StageLogger]:
    """The logger of one stage; closed on every way out. `folder`: of its checkpoint."""
    if settings.name == "wandb":
        from relinearize.tracking.wandb_logger import open_wandb

        return open_wandb(settings, info)
    return nullcontext(CSVLogger(folder) if settings.name == "csv" else StageLogger())


def log_finished(settings: LoggerSettings, finetune: StageInfo, record: Record, folder: Path) -> None:
    """Give a run that was found finished in `folder` to a logger that keeps runs, where it has not got it yet."""
    if settings.name == "wandb":
        from relinearize.tracking.wandb_logger import log_finished as log_to_wandb

        log_to_wandb(settings, finetune, record, folder)
