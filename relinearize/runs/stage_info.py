"""What loggers are told of the stages of a run: names, keys, files, and what each stage is made from."""

from relinearize.records.store import KEY_LENGTH, MASK, WEIGHTS, Artifact
from relinearize.relu.budget import short_count
from relinearize.runs.plan import Plan
from relinearize.tracking.interface import StageInfo


def stage_info(plan: Plan, stage: str) -> StageInfo:
    """`stage` of `plan`: teacher, sensitivity, search (at the plan's budget) or finetune."""
    config, teacher = plan.config, () if stage == "teacher" else (stage_info(plan, "teacher"),)
    # A search serves many budgets and a teacher many searches: their names and tags leave out what is not theirs.
    subject = f"{plan.subject}-s{plan.seed}"
    tags = [config.dataset.name, config.backbone.name]
    if stage == "teacher":
        artifact, inputs = plan.teacher, ()
        name = title = f"teacher-{without_key(artifact)}"
    elif stage == "sensitivity":
        artifact, inputs = plan.sensitivity_source.artifact, teacher
        name, title = f"sensitivity-{without_key(artifact)}", f"sensitivity-{subject}"
    elif stage == "search":
        artifact, inputs = plan.snapshot(plan.budget), (*teacher, *sensitivity_info(plan))
        budget = short_count(plan.budget)
        name = f"{without_key(plan.search)}-{budget}"
        title = f"{config.method.name}-search-{f'{budget}-' if plan.allocated else ''}{subject}"
        tags += [plan.method_name, *([f"{plan.budget}-relus"] if plan.allocated else [])]
    else:
        artifact, inputs = plan.finetune, (*teacher, stage_info(plan, "search"))
        name = title = plan.name
        tags += [plan.method_name, f"{plan.budget}-relus"]
    files = {"weights": artifact.path / WEIGHTS}
    if stage in ("search", "finetune"):
        files = {"mask": (artifact if stage == "search" else plan.chosen).path / MASK, **files}
    group = f"{plan.method_name}-{plan.subject}"
    return StageInfo(stage, artifact, name, title, group, tuple(tags), files, inputs, plan.plain_config)


def sensitivity_info(plan: Plan) -> tuple[StageInfo, ...]:
    """What an allocated search gets its sensitivities from, where something has to be made for them."""
    source = plan.sensitivity_source if plan.allocated else None
    if source is None or source.artifact is None:
        return ()
    return (stage_info(source.maker, "search" if source.learned else "sensitivity"),)


def without_key(artifact: Artifact) -> str:
    """The readable part of its folder's name."""
    return artifact.path.name.removesuffix(f"-{artifact.key[:KEY_LENGTH]}")
