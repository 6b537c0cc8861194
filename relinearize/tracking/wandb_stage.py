"""The W&B run of one stage: its name, group, tags and metrics; what it was made from, and what it made.

A stage's result is in the store when the next one begins, wherever it came from: trained a moment ago, yesterday, or
without W&B. So it is the stage that uses a result which sees to it that W&B has it (`ensure_logged`).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from filelock import FileLock

from relinearize.relu.budget import short_count
from relinearize.tracking.wandb_columns import log_rows, stage_columns
from relinearize.tracking.wandb_lineage import Made, lineage
from relinearize.tracking.wandb_run import run_of_agent, wandb_run

# Over the epoch, since W&B's own step counts on where a run is resumed.
OVER_EPOCHS = ("train/*", "val/*", "relu/count", "mask/distance", "lasso", "lr", "seconds")
OF_SITES = ("relu/kept/*", "mask/distance/*")  # one curve for each site: no columns of the table of runs


@contextlib.contextmanager
def stage_run(made: Made) -> Iterator[tuple[Any, bool]]:
    """The stage's W&B run, and whether it is opened for the first time in this output folder."""
    settings, folder = made.plan.config.logger, Path(made.plan.config.output)
    agent = agent_of(made)
    inputs = [] if settings.mode == "disabled" else made.inputs
    for one in inputs:
        ensure_logged(one)
    number = run_number(made)
    first = not any(folder.glob(f"wandb/*run-*-{number}*"))
    about = {**labels(made), "id": number, "resume": "allow", "sweep": agent.get("WANDB_SWEEP_ID")}
    with wandb_run(settings, folder, **about, config={**made.plan.plain_config, "lineage": lineage(made)}) as run:
        run.define_metric("epoch")
        for metric in OVER_EPOCHS:
            run.define_metric(metric, step_metric="epoch")
        for metric in OF_SITES:
            run.define_metric(metric, step_metric="epoch", summary="none")
        if not run.offline:  # where W&B refuses it; there, `lineage` in the config says the same
            for one in inputs:
                declare_use(run, one)
        yield run, first


def agent_of(made: Made) -> dict[str, str]:
    """What `wandb agent` said, if this is the stage it waits for. Asked for any stage before its wandb.init."""
    agent = run_of_agent()
    return agent if made.stage == "finetune" else {}


def run_number(made: Made) -> str:
    """The id of the stage's W&B run: its own, or the agent's."""
    return agent_of(made).get("WANDB_RUN_ID", made.run_id)


def labels(made: Made) -> dict[str, Any]:
    """Group, job type, name and tags."""
    plan, stage, config = made.plan, made.stage, made.plan.config
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
    tags += [plan.method_name] if stage not in ("teacher", "sensitivity") else []
    tags += [f"{plan.budget}-relus"] if stage == "finetune" or (plan.allocated and stage == "search") else []
    return {
        "group": config.logger.group or f"{plan.method_name}-{plan.subject}",
        "job_type": stage,
        "name": names[stage],
        "tags": [*tags, *config.logger.tags],
    }


def declare_use(run: Any, made: Made) -> None:
    """Make `made` an input of the run, in W&B's graph. What was deleted there is uploaded again."""
    for artifact in made.wandb_artifacts():
        try:
            run.use_artifact(f"{artifact.name}:{made.alias}", type=artifact.type)
        except (wandb.errors.Error, ValueError):
            run.use_artifact(artifact)


def ensure_logged(made: Made) -> None:
    """Add a finished stage's result to its W&B run, once in this output folder, project and mode.

    A stage that was made without W&B, or elsewhere, gets its W&B run here, with the curves of its history.
    """
    mark = mark_of(made)
    if mark.is_file():
        return
    mark.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{mark}.lock"):
        if mark.is_file():
            return
        description = made.artifact.describe()
        with stage_run(made) as (run, first):
            if first:
                log_rows(run, description["history"])
            run.summary.update(stage_columns(description))
            for artifact in made.wandb_artifacts():
                run.log_artifact(artifact, aliases=["latest", made.alias])
        mark.touch()


def mark_of(made: Made) -> Path:
    """The file that says that W&B was given the result."""
    settings, folder = made.plan.config.logger, Path(made.plan.config.output) / "wandb" / ".logged"
    return folder / f"{settings.mode}-{settings.entity}-{settings.project}-{run_number(made)}-{made.name}"
