"""The W&B run of one stage: its id and metrics, what it was made from, and what it made.

A stage's result is in the store when the next one begins, wherever it came from: trained a moment ago, yesterday, or
without W&B. So it is the stage that uses a result which sees to it that W&B has it (`ensure_logged`).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from filelock import FileLock

from relinearize.tracking.interface import LoggerSettings, StageInfo
from relinearize.tracking.wandb_artifacts import lineage, wandb_artifacts
from relinearize.tracking.wandb_columns import log_rows, stage_columns
from relinearize.tracking.wandb_run import run_of_agent, wandb_run

# Over the epoch, since W&B's own step counts on where a run is resumed.
OVER_EPOCHS = ("train/*", "val/*", "relu/count", "mask/distance", "lasso", "lr", "seconds")
OF_SITES = ("relu/kept/*", "mask/distance/*")  # one curve for each site: no columns of the table of runs


@contextlib.contextmanager
def stage_run(settings: LoggerSettings, info: StageInfo) -> Iterator[tuple[Any, bool]]:
    """The stage's W&B run, and whether it is opened for the first time in this output folder."""
    agent = agent_of(info)  # before wandb.init
    inputs = () if settings.mode == "disabled" else info.inputs
    for one in inputs:
        ensure_logged(settings, one)
    number = run_number(info)
    first = not any(settings.output.glob(f"wandb/*run-*-{number}*"))
    about = {
        "id": number,
        "resume": "allow",
        "sweep": agent.get("WANDB_SWEEP_ID"),
        "group": settings.group or info.group,
        "job_type": info.stage,
        "name": info.title,
        "tags": [*info.tags, *settings.tags],
        "config": {**info.config, "lineage": lineage(info)},
    }
    with wandb_run(vars(settings), settings.output, **about) as run:
        run.define_metric("epoch")
        for metric in OVER_EPOCHS:
            run.define_metric(metric, step_metric="epoch")
        for metric in OF_SITES:
            run.define_metric(metric, step_metric="epoch", summary="none")
        if not run.offline:  # where W&B refuses it; there, `lineage` in the config says the same
            for one in inputs:
                declare_use(run, one)
        yield run, first


def agent_of(info: StageInfo) -> dict[str, str]:
    """What `wandb agent` said, if this is the stage it waits for. Called for any stage before its wandb.init."""
    agent = run_of_agent()
    return agent if info.stage == "finetune" else {}


def run_number(info: StageInfo) -> str:
    """The id of the stage's W&B run: its own, or the agent's."""
    return agent_of(info).get("WANDB_RUN_ID", info.run_id)


def declare_use(run: Any, info: StageInfo) -> None:
    """Make a stage's result an input of the run, in W&B's graph. What was deleted there is uploaded again."""
    for artifact in wandb_artifacts(info):
        try:
            run.use_artifact(f"{artifact.name}:{info.alias}", type=artifact.type)
        except (wandb.errors.Error, ValueError):
            run.use_artifact(artifact)


def ensure_logged(settings: LoggerSettings, info: StageInfo) -> None:
    """Add a finished stage's result to its W&B run, once in this output folder, project and mode.

    A stage that was made without W&B, or elsewhere, gets its W&B run here, with the curves of its history.
    """
    mark = mark_of(settings, info)
    if mark.is_file():
        return
    mark.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{mark}.lock"):
        if mark.is_file():
            return
        description = info.artifact.describe()
        with stage_run(settings, info) as (run, first):
            if first:
                log_rows(run, description["history"])
            run.summary.update(stage_columns(description))
            for artifact in wandb_artifacts(info):
                run.log_artifact(artifact, aliases=["latest", info.alias])
        mark.touch()


def mark_of(settings: LoggerSettings, info: StageInfo) -> Path:
    """The file that says that W&B was given the result."""
    name = f"{settings.mode}-{settings.entity}-{settings.project}-{run_number(info)}-{info.name}"
    return settings.output / "wandb" / ".logged" / name
