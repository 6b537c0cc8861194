"""Weights & Biases: one W&B run per stage, grouped by sweep, resumed under the id kept in the stage's key.

`logger=wandb logger.mode=offline` needs no account and no network; `wandb sync FOLDER` uploads later.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb

from relinearize.experiment.plan import short_count
from relinearize.experiment.records import Record, find_records
from relinearize.experiment.store import KEY_LENGTH, Artifact


class WandbRows:
    """Sends each epoch's row; at the end the summary columns, the per-site table, mask and weights."""

    def __init__(self, run: Any, stage_name: str) -> None:
        self.run = run
        self.stage_name = stage_name

    def row(self, stage: Any, row: dict[str, float]) -> None:
        self.run.log(dict(row), step=int(row["epoch"]))

    def finish(self, record: Record, folder: Path) -> None:
        self.run.summary.update(summary_columns(record))
        for path, narrow in find_records([folder]):
            if narrow.submodel is not None:
                columns = summary_columns(narrow).items()
                self.run.summary.update({f"{path.parent.name}/{key}": value for key, value in columns})
        table = wandb.Table(columns=["site", "shape", "total", "kept", "sensitivity"])
        for site in record.sites:
            table.add_data(site.name, "x".join(map(str, site.shape)), site.total, site.kept, site.sensitivity)
        self.run.log({"relu/sites": table})
        for kind in ("mask", "weights"):
            artifact = wandb.Artifact(f"{kind}-{record.name}", type=kind, metadata={"record": record.key})
            artifact.add_file(str(folder / f"{kind}.safetensors"))
            self.run.log_artifact(artifact)


def summary_columns(record: Record) -> dict[str, Any]:
    """What W&B's table of runs shows of a finished run."""
    accuracy = record.accuracy
    return {
        "relu/count": record.budget.met,
        "relu/asked": record.budget.asked,
        "relu/total": record.budget.total,
        "test/accuracy": accuracy.test,
        "test/accuracy_last": accuracy.test_last,
        "test/accuracy_teacher": accuracy.teacher_test,
        "val/accuracy_selected": accuracy.holdout,
        "record/key": record.key,
    }


@contextlib.contextmanager
def open_wandb(plan: Any, stage_name: str, artifact: Artifact) -> Iterator[WandbRows]:
    """A W&B run for one stage; finished in any case, or the runs of a multirun would merge."""
    config = plan.config
    settings = config.logger
    # A search serves many budgets and a teacher many searches: their names and tags leave out what is not theirs.
    subject = f"{plan.subject}-s{plan.seed}"
    searched = f"{short_count(plan.budget)}-{subject}" if plan.allocated else subject
    names = {
        "teacher": f"teacher-{subject}",
        "sensitivity": f"sensitivity-{subject}",
        "search": f"{config.method.name}-search-{searched}",
        "finetune": plan.name,
    }
    tags = [config.dataset.name, config.backbone.name]
    tags += [config.method.name] if stage_name not in ("teacher", "sensitivity") else []
    tags += [f"{plan.budget}-relus"] if stage_name == "finetune" or (plan.allocated and stage_name == "search") else []
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=settings.project,
        entity=settings.entity,
        mode=settings.mode,
        dir=str(folder),
        group=settings.group or f"{config.method.name}-{plan.subject}",
        job_type=stage_name,
        name=names[stage_name],
        tags=[*tags, *settings.tags],
        id=f"{stage_name}-{artifact.key[:KEY_LENGTH]}",
        resume="allow",
        config=plan.plain_config,
        settings=wandb.Settings(silent=True),
    )
    run.define_metric("val/accuracy", summary="max")
    try:
        yield WandbRows(run, stage_name)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
