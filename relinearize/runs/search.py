"""The search of a run: the mask of its budget and the weights of that moment, from the store or by searching."""

import time
from functools import partial
from typing import Any

from hydra.utils import instantiate

from relinearize.errors import UserError
from relinearize.methods.stage import Snapshot, Stage
from relinearize.progress import say
from relinearize.records.store import MASK, WEIGHTS
from relinearize.relu.allocation import allocate
from relinearize.relu.budget import site_mask, top_mask
from relinearize.relu.culling import ScoredPositions, SensitiveSites
from relinearize.relu.mask import Mask, MaskMetadata
from relinearize.relu.sites import to_sloped
from relinearize.runs.plan import Plan
from relinearize.runs.stages import frozen_teacher, load_into, publish, tested, train
from relinearize.runs.teacher import make_teacher
from relinearize.runs.weights import read_weights, write_weights
from relinearize.training.checkpoint import CHECKPOINT, read_checkpoint

SCORES = "scores.safetensors"  # of a snapshot whose search scores positions


def make_snapshot(plan: Plan) -> None:
    """The search of `plan`, done as far as its budget."""
    if plan.snapshot(plan.budget).complete:
        return
    sensitivities = open_sensitivities(plan) if plan.allocated else {}  # before the lock: it may need other searches
    with plan.search.lock(say):
        if plan.snapshot(plan.budget).complete:
            return
        search = instantiate(plan.config.method.search, _partial_=True, _convert_="all")
        if hasattr(search.func, "scores"):
            scored_snapshot(plan, search(), sensitivities)
        elif plan.allocated:
            allocated_search(plan, sensitivities)
        else:
            walk_search(plan)


def make_mask(plan: Plan) -> None:
    """The search, and what an allocation that culls sites makes of its scores (see Plan.chosen)."""
    make_snapshot(plan)
    if plan.chosen.complete:
        return
    with plan.chosen.lock(say):
        if plan.chosen.complete:
            return
        snapshot = plan.snapshot(plan.budget).path
        if not (snapshot / SCORES).is_file():
            raise UserError(f"{snapshot} was left by an earlier version, without scores; delete it to search again")
        found = read_weights(snapshot / SCORES)
        scores = {name: found[name] for name in plan.shapes}  # a file has an order of its own
        division = plan.site_choice.choose(plan.sizes, plan.budget, ScoredPositions(scores, plan.budget))
        mask = site_mask(scores, division.counts)
        folder = plan.chosen.work
        folder.mkdir(parents=True, exist_ok=True)
        mask.to_file(folder / MASK, mask_metadata(plan, plan.budget, mask))
        publish(plan.chosen, folder, plan.config, {"live": division.live}, read_weights(snapshot / WEIGHTS))


def open_sensitivities(plan: Plan) -> dict[str, float | None]:
    """The sensitivity of each site; None for those that the allocation culls."""
    sensitivities = make_sensitivities(plan)
    if plan.site_choice is None:
        return sensitivities
    divide = SensitiveSites(plan.sizes, sensitivities, plan.budget)
    return divide.among(plan.site_choice.choose(plan.sizes, plan.budget, divide).live)


def make_sensitivities(plan: Plan) -> dict[str, float]:
    """The sensitivity of each site, from wherever the `sensitivity` group says; trained if it must be."""
    source = plan.sensitivity_source
    if source.artifact is not None:
        make_teacher(source.maker)
        if source.learned:
            make_snapshot(source.maker)
        elif not source.artifact.complete:
            with source.artifact.lock(say):
                if not source.artifact.complete:
                    train_sensitivity(plan)
    return source.values()


def train_sensitivity(plan: Plan) -> None:
    """The stage that computes them, from the teacher's weights; its pruned network is tested, to be looked at."""
    artifact, source = plan.sensitivity_source.artifact, plan.sensitivity_source.maker
    folder = artifact.work
    stage = train(source, sensitivity_stage, folder / CHECKPOINT)
    weights, accuracies = tested(source, stage, source.new_network())
    description = {
        "sensitivities": stage.sensitivities(),
        "densities": stage.densities(),
        "seconds": stage.seconds,
        "history": stage.history,
        "accuracy": accuracies,
    }
    publish(artifact, folder, source.config, description, weights)


def sensitivity_stage(source: Plan) -> Stage:
    network = load_into(source.new_network(), read_weights(source.teacher.path / WEIGHTS))
    return source.sensitivity_source.build(network=network)


def scored_snapshot(plan: Plan, search: Any, sensitivities: dict[str, float | None]) -> None:
    """A search without training: the mask is the top of its scores, the weights are the teacher's."""
    started = time.monotonic()
    scores = search.scores(plan.shapes, plan.seed)
    if plan.allocated:
        mask = site_mask(scores, allocate(plan.sizes, sensitivities, plan.budget))
    else:
        mask = top_mask(scores, plan.budget)
    weights = read_weights(plan.teacher.path / WEIGHTS)
    keep_snapshot(plan, Snapshot(plan.budget, mask, weights, True, time.monotonic() - started, scores=scores))


def allocated_search(plan: Plan, sensitivities: dict[str, float | None]) -> None:
    """A search for one budget under a given allocation (SENet)."""
    checkpoint = plan.search.path / CHECKPOINT
    stage = train(plan, partial(allocated_stage, sensitivities=sensitivities), checkpoint)
    keep_snapshot(plan, stage.snapshot())
    checkpoint.unlink(missing_ok=True)


def allocated_stage(plan: Plan, sensitivities: dict[str, float | None]) -> Stage:
    stage = instantiate(plan.config.method.search, _partial_=True, _convert_="all")(
        network=plan.stage_network("search"),
        teacher=frozen_teacher(plan, "search"),
        sensitivities=sensitivities,
        budget=plan.budget,
    )
    if stage.start == "teacher":
        load_into(stage.network, read_weights(plan.teacher.path / WEIGHTS))
    return stage


def walk_search(plan: Plan) -> None:
    """A search that walks down through the budgets, continued from where it stood last.

    A budget that an earlier walk passed without leaving a snapshot (nobody had asked) is walked to again from the
    start, beside the trajectory, which stays where it is: the same steps lead to the same snapshot.
    """
    trajectory = plan.search.path / CHECKPOINT
    checkpoint = read_checkpoint(trajectory)
    passed = checkpoint is not None and checkpoint["search"]["lowest_checked"] <= plan.budget
    target = plan.search.path / f"again-{plan.budget}.ckpt" if passed else trajectory
    wanted = [budget for budget in plan.grid if not plan.snapshot(budget).complete]
    if passed:
        wanted = [budget for budget in wanted if budget >= plan.budget]
        checkpoint = read_checkpoint(target)  # of a second walk that was interrupted
    if checkpoint is not None:  # what lies behind the point where this walk goes on cannot be left by it
        wanted = [budget for budget in wanted if budget < checkpoint["search"]["lowest_checked"]]
    # A second walk's rows stand in the log already.
    stage = train(plan, partial(walking_stage, budgets=wanted), target, logged=not passed)
    unreached = stage.finish()
    if unreached:
        say(
            f"search: {stage.epochs} epochs ended at {stage.count:,} ReLUs; budgets {unreached} are met by projection. "
            f"More method.search.epochs or a larger method.search.lasso would reach them"
        )
    if passed:
        target.unlink()


def walking_stage(plan: Plan, budgets: list[int]) -> Stage:
    network = load_into(plan.new_student(), read_weights(plan.teacher.path / WEIGHTS))
    to_sloped(network.network)
    return instantiate(plan.config.method.search, _partial_=True, _convert_="all")(
        network=network,
        teacher=frozen_teacher(plan, "search"),
        budgets=budgets,
        on_snapshot=partial(keep_snapshot, plan),
    )


def keep_snapshot(plan: Plan, snapshot: Snapshot) -> None:
    artifact = plan.snapshot(snapshot.budget)
    if artifact.complete:
        return
    folder = artifact.work
    folder.mkdir(parents=True, exist_ok=True)
    snapshot.mask.to_file(folder / MASK, mask_metadata(plan, snapshot.budget, snapshot.mask))
    if snapshot.scores is not None:
        write_weights(snapshot.scores, folder / SCORES)
    description = {
        "asked": snapshot.budget,
        "met": snapshot.mask.count,
        "reached": snapshot.reached,
        "seconds": snapshot.seconds,
        "history": snapshot.history,
    }
    publish(artifact, folder, plan.config, description, snapshot.weights)


def mask_metadata(plan: Plan, asked: int, mask: Mask) -> MaskMetadata:
    backbone = plan.config.backbone
    return MaskMetadata(
        backbone=backbone.name,
        convention=backbone.get("convention", "all"),
        input_size=plan.input_size,
        asked=asked,
        met=mask.count,
        key=plan.search.key,
    )


def search_inputs(plan: Plan) -> dict[str, Any]:
    """Arguments to build the search stage with, before there is anything to search: for finding wrong settings."""
    network = plan.stage_network("search")
    inputs: dict[str, Any] = {"network": network, "teacher": plan.teacher_network("search")}
    if plan.allocated:
        known = plan.sensitivity_source.known or dict.fromkeys(plan.shapes, 1.0)
        return inputs | {"sensitivities": known, "budget": plan.budget}
    to_sloped(network.network)
    return inputs | {"budgets": [plan.budget], "on_snapshot": None}
