"""Weights & Biases: one W&B run per stage, grouped by sweep, resumed under the id kept in the stage's key.

`logger=wandb logger.mode=offline` needs no account and no network; `wandb sync FOLDER` uploads later. A stage may leave
several W&B folders of one id (killed and continued, its result added afterwards): sync joins them in their order. The
last one's summary wins, so that each of them is given the complete summary. What people see there: docs/wandb.md.

A stage's result is in the store when the next one begins, wherever it came from: trained a moment ago, yesterday, or
without W&B. So it is the stage that uses a result which sees to it that W&B has it (`ensure_logged`).
"""

import contextlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from filelock import FileLock

from relinearize.files import write_text
from relinearize.progress import say
from relinearize.records.run import PredictionsRecord, Record, find_records
from relinearize.records.store import KEY_LENGTH, MASK, WEIGHTS
from relinearize.relu.mask import Mask
from relinearize.tracking.interface import LONGEST_TAG, LoggerSettings, StageInfo, StageLogger
from relinearize.tracking.wandb_run import run_of_agent, wandb_run

# Over the epoch, since W&B's own step counts on where a run is resumed.
OVER_EPOCHS = (
    *("train/*", "val/*", "relu/count", "mask/distance", "lasso", "lr", "seconds"),
    *("density", "exchange/*", "block/*", "criterion/*", "plan/*"),
)
OF_SITES = ("relu/kept/*", "mask/distance/*")  # one curve for each site: no columns of the table of runs
ACCURACIES = {
    "test": "test/accuracy",
    "test_last": "test/accuracy_last",
    "teacher_test": "test/accuracy_teacher",
    "holdout": "val/accuracy_selected",
}
UPLOADED = 60.0  # seconds after which W&B has surely uploaded a row
FIGURE = 96  # pixels a site's figure has at least


@dataclass
class WandbRows(StageLogger):
    """Sends each epoch's row; at the end the summary columns, the sites, mask and weights.

    sent: the file with two epochs, of whatever budget: stages that serve several have one W&B run. The last one that
    W&B was given, and the last one that it surely has: a hard kill may take what W&B's own process holds.
    began: the epoch behind which this object sends rows; None: it has sent none. times: of each epoch that it sent.
    complete: whether the result was handed over, too.
    """

    run: Any
    info: StageInfo
    sent: Path
    began: int | None = None
    times: dict[int, float] = field(default_factory=dict)
    complete: bool = False

    def rows(self, history: list[dict[str, float]]) -> None:
        self.send(history, self.epochs_sent()[1])
        self.run.summary.update(best_columns(history))

    def lightning(self) -> Any:
        from pytorch_lightning import loggers

        return loggers.WandbLogger(experiment=self.run)

    def finish(self, record: Record, folder: Path) -> None:
        self.log_history(record.stages["finetune"].history)
        self.run.summary.update(summary_columns(record))
        self.log_network(record, self.info.files)
        for path, narrow in find_records([folder]):
            if narrow.submodel is not None:
                name = path.parent.name
                self.run.summary.update({f"{name}/{key}": value for key, value in summary_columns(narrow).items()})
                # The mask of a sub-model lies in the run's folder alone, which has not got its name yet.
                files = {"mask": path.parent / MASK, "weights": self.info.artifact.path / name / WEIGHTS}
                self.log_network(narrow, files, copied="mask")
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
        self.complete = True

    def log_history(self, history: list[dict[str, float]]) -> None:
        """The curves, as far as they were not logged while the stage was trained, and their summary.

        A snapshot's row, which lies between two epochs, is in neither; the summary says nothing of single sites.
        """
        rows = [row for row in history if "seconds" in row]
        given, sure = self.epochs_sent()
        self.send(rows, given if self.info.stage == "search" else sure)  # a search may be sent by another process, too
        last = {key: value for key, value in rows[-1].items() if key.count("/") < 2} if rows else {}
        self.run.summary.update(last | best_columns(history))

    def send(self, history: list[dict[str, float]], after: int) -> None:
        """The rows behind epoch `after`, each once."""
        if self.began is None:
            self.began = after
        for row in history:
            if "seconds" in row and row["epoch"] > max(self.times, default=self.began):
                self.run.log(row)
                self.times[int(row["epoch"])] = time.monotonic()
        # Offline, W&B writes blocks of 32 KiB: rows of hours, perhaps, are in its memory until the run ends.
        self.note(math.inf if self.run.offline else UPLOADED)

    def ended(self) -> None:
        """W&B has all that it was given."""
        self.note(0.0)

    def epochs_sent(self) -> tuple[int, int]:
        """What stands in `sent`."""
        words = self.sent.read_text().split() if self.sent.is_file() else ["-1"]
        return int(words[0]), int(words[-1])

    def note(self, seconds: float) -> None:
        """Write down what W&B was given, and that it surely has what it was given `seconds` ago."""
        given, sure = self.epochs_sent()
        if self.began is not None and self.began <= sure:  # what another process sent in between may be lost
            had = time.monotonic() - seconds
            sure = max([sure, *(epoch for epoch, sent_at in self.times.items() if sent_at <= had)])
        write_text(self.sent, f"{max([given, *self.times])} {sure}")

    def log_network(self, record: Record, files: Mapping[str, Path], copied: str | None = None) -> None:
        about = {"record": record.key, "relus": record.budget.met, "test_accuracy": record.accuracy.test}
        about["made_from"] = lineage(self.info)
        for kind, file in files.items():
            artifact = wandb_artifact(kind, record.name, file, about, copied=kind == copied)
            self.run.log_artifact(artifact, aliases=["latest", record.key[:KEY_LENGTH]])


@contextlib.contextmanager
def open_wandb(settings: LoggerSettings, info: StageInfo) -> Iterator[WandbRows]:
    """The W&B run of one stage, with what the stage uses known to W&B before it."""
    agent = agent_of(info)  # before wandb.init
    inputs = () if settings.mode == "disabled" else info.inputs
    for one in inputs:
        ensure_logged(settings, one)
    about = {
        "id": run_id_of(info),
        "resume": "allow",
        "sweep": agent.get("WANDB_SWEEP_ID"),
        "group": settings.group or info.group,
        "job_type": info.stage,
        "name": info.title,
        "tags": [*(tag[:LONGEST_TAG] for tag in info.tags), *settings.tags],
        "config": {**info.config, "lineage": lineage(info)},
    }
    rows = WandbRows(None, info, run_file(settings, info, ".epoch"))
    with wandb_run(vars(settings), settings.output, ended=rows.ended, **about) as run:
        rows.run = run
        run.define_metric("epoch")
        for metric in (*OVER_EPOCHS, *OF_SITES):
            run.define_metric(metric, step_metric="epoch", summary="none" if metric in OF_SITES else None)
        if not run.offline:  # where W&B refuses it; there, `lineage` in the config says the same
            for one in inputs:
                declare_use(run, one)
        yield rows
    if rows.complete:  # the upload has ended
        mark_of(settings, info).touch()


def ensure_logged(settings: LoggerSettings, info: StageInfo) -> None:
    """Add a finished stage's result to its W&B run, once in this output folder, project and mode.

    A stage that was made without W&B, or elsewhere, gets its W&B run here, with the curves of its history.
    """
    mark = mark_of(settings, info)
    with FileLock(run_file(settings, info, ".lock")):
        if mark.is_file() or not info.artifact.complete:  # gone, perhaps, since what was made of it is there
            return
        description = info.artifact.describe()
        with open_wandb(settings, info) as rows:
            rows.log_history(description["history"])
            counts = {"count": description.get("met"), "asked": description.get("asked")}
            rows.run.summary.update(result_columns(description.get("accuracy", {}), **counts))
            for artifact in wandb_artifacts(info):
                rows.run.log_artifact(artifact, aliases=["latest", info.alias])
            rows.complete = True


def log_finished(settings: LoggerSettings, finetune: StageInfo, record: Record, folder: Path) -> None:
    """Give W&B a run that was finished before, once; without its stages in the store it is left alone."""
    if settings.mode != "disabled" and not mark_of(settings, finetune).is_file():
        if not finetune.in_store:
            return say(f"not logged: {finetune.title}: its stages are no longer in the store")
        with open_wandb(settings, finetune) as rows:
            rows.finish(record, folder)


def mark_of(settings: LoggerSettings, info: StageInfo) -> Path:
    """The file that says that W&B was given the result; its folder is there."""
    return run_file(settings, info, f"-{info.name}")


def run_file(settings: LoggerSettings, info: StageInfo, ending: str) -> Path:
    """A file for the stage's W&B run, which the budgets of a search share; its folder is there."""
    folder = settings.output / "wandb" / ".logged"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{settings.mode}-{settings.entity}-{settings.project}-{run_id_of(info)}{ending}"


def agent_of(info: StageInfo) -> dict[str, str]:
    """What `wandb agent` set, if this is the stage it waits for. Called for any stage before its wandb.init."""
    agent = run_of_agent()
    return agent if info.stage == "finetune" else {}


def run_id_of(info: StageInfo) -> str:
    """The id of the stage's W&B run: its own, or the agent's."""
    return agent_of(info).get("WANDB_RUN_ID", info.run_id)


def best_columns(history: list[dict[str, float]]) -> dict[str, float]:
    """The best value so far of each validation metric; its last one stands in the summary by itself."""
    keys = dict.fromkeys(key for row in history for key in row if key.startswith("val/"))
    values = {key: [row[key] for row in history if row.get(key) is not None] for key in keys}
    return {f"{key}_best": max(known) for key, known in values.items() if known}


def summary_columns(record: Record) -> dict[str, Any]:
    """What W&B's table of runs shows of a finished run, beside its history."""
    budget = record.budget
    shown = result_columns(record.accuracy.model_dump(), count=budget.met, asked=budget.asked, total=budget.total)
    return {**shown, "record/key": record.key}


def result_columns(accuracy: Mapping[str, Any], **counts: int | None) -> dict[str, Any]:
    """The values of an AccuracyRecord and `counts` of ReLUs, as far as they are known."""
    columns = {column: accuracy.get(name) for name, column in ACCURACIES.items()}
    if predictions := accuracy.get("predictions"):
        columns |= {f"test/{name}": predictions[name] for name in ("ece", "nll")}
        columns["test/worst_class"] = PredictionsRecord(**predictions).worst_class
    columns |= {f"relu/{name}": count for name, count in counts.items()}
    return {column: value for column, value in columns.items() if value is not None}


def site_figure(name: str, kept: np.ndarray) -> wandb.Image:
    """A site's mask (C x H x W) summed over channels; white: every channel keeps its ReLU there."""
    share = kept.reshape(kept.shape[0], -1, kept.shape[-1] if kept.ndim > 1 else 1).mean(axis=0)
    factor = -(-FIGURE // max(share.shape))
    pixels = np.uint8(np.round(255 * share)).repeat(factor, axis=0).repeat(factor, axis=1)
    return wandb.Image(pixels, mode="L", caption=f"{name}: {int(kept.sum()):,} of {kept.size:,}")


def declare_use(run: Any, info: StageInfo) -> None:
    """Make a stage's result an input of the run, in W&B's graph. What was deleted there is uploaded again."""
    for artifact in wandb_artifacts(info):
        try:
            run.use_artifact(f"{artifact.name}:{info.alias}", type=artifact.type)
        except (wandb.errors.Error, ValueError):
            run.use_artifact(artifact)


def lineage(info: StageInfo) -> dict[str, dict[str, str]]:
    """Stage -> its W&B run and artifacts, of all that `info` was made from; for the run's config and its artifacts.

    A further input of the same stage (the search that sensitivities come from) has its run's id as its name.
    """
    found: dict[str, dict[str, str]] = {}
    for one in info.inputs:
        files = {kind: f"{artifact_name(kind, one.name)}:{one.alias}" for kind in one.files}
        found[one.run_id if one.stage in found else one.stage] = {"run": one.run_id, **files}
    return found


def wandb_artifacts(info: StageInfo) -> list[Any]:
    """The W&B artifacts of a stage. Built again from the same files, one is the same: W&B goes by content."""
    metadata = {"key": info.artifact.key, "made_from": lineage(info)}
    return [wandb_artifact(kind, info.name, path, metadata) for kind, path in info.files.items()]


def wandb_artifact(kind: str, name: str, file: Path, metadata: dict[str, Any], copied: bool = False) -> Any:
    """The W&B artifact of one file.

    A file of the store is referred to, until it is uploaded: it is never changed in place. Others are `copied`.
    """
    artifact = wandb.Artifact(artifact_name(kind, name), type=kind, metadata=metadata)
    policy = "mutable" if copied else "immutable"
    artifact.add_file(str(file.resolve()), name=file.name, policy=policy, skip_cache=True)
    return artifact


def artifact_name(kind: str, name: str) -> str:
    """mask-snl-resnet18-cifar10-50k-s0, in the letters that W&B allows."""
    return re.sub(r"[^\w.-]", "_", f"{kind}-{name}", flags=re.ASCII)[:128]
