"""Weights & Biases: one W&B run per stage, grouped by sweep, resumed under the id kept in the stage's key.

`logger=wandb logger.mode=offline` needs no account and no network; `wandb sync FOLDER` uploads later. A stage may leave
several W&B folders of one id (killed and continued, its result added afterwards): sync joins them in their order. The
last one's summary wins, so that each of them is given the whole summary. What people see there: docs/wandb.md.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from relinearize.records.run import Record, find_records
from relinearize.records.store import KEY_LENGTH, MASK, WEIGHTS
from relinearize.relu.mask import Mask
from relinearize.tracking.interface import LoggerSettings, StageInfo, StageLogger
from relinearize.tracking.wandb_artifacts import lineage, wandb_artifact
from relinearize.tracking.wandb_columns import best_columns, history_columns, log_rows, summary_columns
from relinearize.tracking.wandb_stage import mark_of, stage_run

FIGURE = 96  # pixels a site's figure has at least


class WandbRows(StageLogger):
    """Sends each epoch's row; at the end the summary columns, the sites, mask and weights."""

    def __init__(self, run: Any, info: StageInfo, mark: Path, first: bool) -> None:
        self.run, self.info = run, info
        self.mark = mark  # written once W&B has the result
        self.first = first  # nothing of this stage was logged here before

    def rows(self, history: list[dict[str, float]]) -> None:
        self.run.log(history[-1])
        self.run.summary.update(best_columns(history))

    def lightning(self) -> Any:
        from pytorch_lightning import loggers

        return loggers.WandbLogger(experiment=self.run)

    def finish(self, record: Record, folder: Path) -> None:
        history = record.stages["finetune"].history
        if self.first:
            log_rows(self.run, history)
        self.run.summary.update(history_columns(history))
        self.run.summary.update(summary_columns(record))
        self._log_network(record, self.info.files)
        for path, narrow in find_records([folder]):
            if narrow.submodel is not None:
                name = path.parent.name
                columns = summary_columns(narrow).items()
                self.run.summary.update({f"{name}/{key}": value for key, value in columns})
                weights = self.info.artifact.path / name / WEIGHTS
                # The mask of a sub-model lies in the run's folder alone, which has not got its name yet.
                self._log_network(narrow, {"mask": path.parent / MASK, "weights": weights}, copied="mask")
        mask, _ = Mask.from_file(self.info.files["mask"])
        table = wandb.Table(columns=["site", "shape", "total", "kept", "sensitivity"])
        for site in record.sites:
            table.add_data(site.name, "x".join(map(str, site.shape)), site.total, site.kept, site.sensitivity)
        self.run.log(
            {
                "sites/table": table,
                "sites/kept": wandb.plot.bar(table, "site", "kept", title="ReLUs kept per site"),
                "sites/mask": [site_figure(name, kept.numpy()) for name, kept in mask.items()],
            }
        )
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        self.mark.touch()

    def _log_network(self, record: Record, files: Mapping[str, Path], copied: str | None = None) -> None:
        about = {"record": record.key, "relus": record.budget.met, "test_accuracy": record.accuracy.test}
        about["made_from"] = lineage(self.info)
        for kind, file in files.items():
            artifact = wandb_artifact(kind, record.name, file, about, copied=kind == copied)
            self.run.log_artifact(artifact, aliases=["latest", record.key[:KEY_LENGTH]])


def site_figure(name: str, kept: np.ndarray) -> wandb.Image:
    """A site's mask (C x H x W) summed over channels; white: every channel keeps its ReLU there."""
    share = kept.reshape(kept.shape[0], -1, kept.shape[-1] if kept.ndim > 1 else 1).mean(axis=0)
    factor = -(-FIGURE // max(share.shape))
    pixels = np.uint8(np.round(255 * share)).repeat(factor, axis=0).repeat(factor, axis=1)
    return wandb.Image(pixels, mode="L", caption=f"{name}: {int(kept.sum()):,} of {kept.size:,}")


@contextlib.contextmanager
def open_wandb(settings: LoggerSettings, info: StageInfo) -> Iterator[WandbRows]:
    """The W&B run of one stage, with what the stage uses known to W&B before it."""
    with stage_run(settings, info) as (run, first):
        yield WandbRows(run, info, mark_of(settings, info), first)


def log_finished(settings: LoggerSettings, finetune: StageInfo, record: Record, folder: Path) -> None:
    """Give W&B a run that was finished before, once; without its stages in the store it is left alone."""
    if settings.mode != "disabled" and finetune.in_store and not mark_of(settings, finetune).is_file():
        with open_wandb(settings, finetune) as rows:
            rows.finish(record, folder)
