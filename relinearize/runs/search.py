"""The search of a run: the mask of its budget and the weights of that moment, from the store or by searching."""

import contextlib
import time
from functools import partial
from typing import Any

import torch

from relinearize.backbones.weights import write_weights
from relinearize.errors import UserError
from relinearize.methods.senet.ordered import first_channels
from relinearize.methods.stage.snapshot import Snapshot
from relinearize.methods.stage.stage import Stage
from relinearize.processes import process_rank
from relinearize.progress import say
from relinearize.records.store import CHECKPOINT, MASK, WEIGHTS, Artifact
from relinearize.relu.allocation import allocate
from relinearize.relu.budget import site_mask, top_mask
from relinearize.relu.culling import ScoredPositions, SensitiveSites
from relinearize.relu.mask import Mask, MaskMetadata
from relinearize.relu.sites import to_sloped
from relinearize.runs.plan import Plan, keys_of
from relinearize.runs.stages import frozen_teacher, load_into, publish, tested, train
from relinearize.runs.teacher import make_teacher
from relinearize.targets import builder
from relinearize.training.checkpoint import read_checkpoint

SCORES = "scores.safetensors"  # of a snapshot whose search scores positions


def make_snapshot(plan: Plan) -> None:
    """The search of `plan`, done as far as its budget; the checkpoint then goes, but not the trajectory of a walk."""
    if not plan.snapshot().complete:
        make_first(plan)
        # Before the lock: may need other searches.
        sensitivities = open_sensitivities(plan) if plan.request.allocated else {}
        with plan.search.lock():
            if not plan.snapshot().complete:
                search(plan, sensitivities)
    with contextlib.suppress(OSError):  # as in Artifact.make
        (plan.search.path / (CHECKPOINT if plan.request.one_budget else second_walk(plan))).unlink()


def search(plan: Plan, sensitivities: dict[str, float | None]) -> None:
    """Search for the mask of `plan`'s budget, in whichever way its search does."""
    build = builder(plan.request.config.method.search)
    if hasattr(build.func, "scores"):
        scored_snapshot(plan, build(), sensitivities)
    elif plan.request.one_budget:
        budget_search(plan, sensitivities)
    else:
        walk_search(plan)


def make_first(plan: Plan) -> None:
    """The search whose mask this run's search starts from, if it does."""
    if plan.first is not None:
        with keys_of("method.search.first"):
            make_snapshot(plan.first)
        check_scores_left(plan)


def make_mask(plan: Plan) -> None:
    """The search, and what an allocation makes of its scores (see Plan.chosen)."""
    make_snapshot(plan)
    check_scores_left(plan)
    if plan.chosen.complete:
        return
    sensitivities = make_sensitivities(plan)  # before the lock: may need another search
    with plan.chosen.lock():
        if plan.chosen.complete:
            return
        request, snapshot, results = plan.request, plan.snapshot(), plan.results
        found = results.weights(snapshot, SCORES)
        scores = {name: found[name] for name in request.shapes}  # a file has an order of its own
        divide = (
            SensitiveSites(request.sizes, sensitivities, request.budget)
            if sensitivities
            else ScoredPositions(scores, request.budget)
        )
        division = request.site_choice.choose(request.sizes, request.budget, divide)
        mask = write_mask(plan, plan.chosen, request.budget, site_mask(scores, division.counts))
        publish(plan, plan.chosen, {"live": division.live}, results.weights(snapshot))
        results.keep(plan.chosen, {WEIGHTS: results.weights(snapshot), MASK: mask})


def check_scores_left(plan: Plan) -> None:
    """UserError where a finished search left no scores and the run divides them, or starts from them."""
    request, needed = plan.request, []
    if request.allocation is not None and not request.allocated:
        needed += [(plan.snapshot(), f"allocation={request.allocation['name']} divides", "allocation=free")]
    if plan.first is not None:
        remedy = "another, as method/search@method.search.first=snl"
        needed += [(plan.first.snapshot(), "method.search starts from", remedy)]
    for snapshot, use, remedy in needed:
        if snapshot.complete and SCORES not in snapshot.describe().get("files", {SCORES}):
            raise UserError(f"{use} the scores of a search, and this one leaves none (Snapshot.scores); give {remedy}")


def open_sensitivities(plan: Plan) -> dict[str, float | None]:
    """The sensitivity of each site; None for those that the allocation culls."""
    request, sensitivities = plan.request, make_sensitivities(plan)
    if request.site_choice is None:
        return sensitivities
    divide = SensitiveSites(request.sizes, sensitivities, request.budget)
    return divide.among(request.site_choice.choose(request.sizes, request.budget, divide).live)


def make_sensitivities(plan: Plan) -> dict[str, float]:
    """The sensitivity of each site, from wherever the `sensitivity` group says; trained if it must be."""
    if plan.sensitivity is None:
        return plan.sensitivities()
    maker = plan.sensitivity_maker
    first = plan.sensitivity_first  # in the record, also where the search that starts from it is there
    if not all(artifact.complete for artifact in (plan.sensitivity, first and first.snapshot()) if artifact):
        maker.teacher.make(partial(make_teacher, maker))
    if plan.sensitivity_learned:
        with keys_of(f"{plan.sensitivity_key}.search"):
            make_first(maker)
            make_snapshot(maker)
    else:
        with keys_of(plan.sensitivity_key):
            plan.sensitivity.make(partial(train_sensitivity, plan))
    return plan.sensitivities()


def train_sensitivity(plan: Plan) -> None:
    """The stage that computes them, from the teacher's weights; its pruned network is tested, to be looked at."""
    maker = plan.sensitivity_maker
    stage = train(maker, sensitivity_stage, plan.sensitivity.work / CHECKPOINT)
    weights, accuracies = tested(maker, stage, maker.request.new_network())
    description = {
        "sensitivities": stage.sensitivities(),
        "densities": stage.densities() if hasattr(stage, "densities") else {},
        "seconds": stage.seconds,
        "history": stage.history,
        "accuracy": accuracies,
    }
    publish(maker, plan.sensitivity, description, weights)


def sensitivity_stage(maker: Plan) -> Stage:
    network = load_into(maker.request.new_network(), maker.results.weights(maker.teacher))
    return builder(maker.sensitivity_settings)(network=network)


def scored_snapshot(plan: Plan, search: Any, sensitivities: dict[str, float | None]) -> None:
    """A search without training: the mask is the top of its scores, the weights are the teacher's."""
    started, request = time.monotonic(), plan.request
    found = search.scores(request.shapes, request.seed)
    scores = {name: found[name] for name in request.shapes}
    if request.allocated:
        mask = site_mask(scores, allocate(request.sizes, sensitivities, request.budget))
    else:
        mask = top_mask(scores, request.budget)
    weights = plan.results.weights(plan.teacher)
    keep_snapshot(plan, Snapshot(request.budget, mask, weights, True, time.monotonic() - started, scores=scores))


def budget_search(plan: Plan, sensitivities: dict[str, float | None]) -> None:
    """A search for one budget, under a given allocation (SENet) or over all positions."""
    checkpoint = plan.search.path / CHECKPOINT
    snapshot = train(plan, partial(budget_stage, sensitivities=sensitivities), checkpoint).snapshot()
    if not snapshot.reached:
        say(f"search: its epochs ended before it came down to {snapshot.budget:,} ReLUs, which are met by projection")
    if snapshot.mask.count < snapshot.budget:
        met, unit = snapshot.mask.count, snapshot.mask.unit
        what = "its mask, without ties, comes" if unit == "positions" else f"whole {unit} come"
        say(f"search: of the {snapshot.budget:,} ReLUs asked, {what} to {met:,}")
    keep_snapshot(plan, snapshot)


def budget_stage(plan: Plan, sensitivities: dict[str, float | None]) -> Stage:
    request, inputs, weights = plan.request, {}, plan.results.weights(plan.teacher)
    network = request.stage_network("search")
    if request.allocated:
        inputs["sensitivities"] = sensitivities
    if request.planned_replacement is not None:
        inputs["fit"] = request.replacement_fit
    if plan.first is not None:
        snapshot, results = plan.first.snapshot(), plan.first.results
        results.mask(snapshot)[0].apply(network.network)
        weights = results.weights(snapshot)
        inputs["first"] = results.weights(snapshot, SCORES)
    stage = builder(request.config.method.search)(
        network=load_into(network, first_channels(weights, network) if request.reshaped else weights),
        teacher=frozen_teacher(plan, "search"),
        budget=request.budget,
        **inputs,
    )
    if stage.start == "scratch":
        load_into(stage.network, request.fresh_student().network.state_dict())
    return stage


def walk_search(plan: Plan) -> None:
    """A search that walks down through the budgets, continued from where it stood last.

    A budget that an earlier walk passed without leaving a snapshot (nobody had asked) is walked to again from the
    start, beside the trajectory, which stays where it is: the same steps lead to the same snapshot.
    """
    budget, trajectory = plan.request.budget, plan.search.path / CHECKPOINT
    checkpoint = read_checkpoint(trajectory)
    passed = checkpoint is not None and checkpoint["search"]["lowest_checked"] <= budget
    target = plan.search.path / second_walk(plan) if passed else trajectory
    wanted = [one for one in plan.request.grid if not plan.snapshot(one).complete]
    if passed:
        wanted = [one for one in wanted if one >= budget]
        checkpoint = read_checkpoint(target)  # of a second walk that was interrupted
    if checkpoint is not None:  # what lies behind the point where this walk goes on cannot be left by it
        wanted = [one for one in wanted if one < checkpoint["search"]["lowest_checked"]]
    # A second walk's rows stand in the log already.
    stage = train(plan, partial(walking_stage, budgets=wanted), target, logged=not passed)
    unreached = stage.finish()
    if unreached:
        say(
            f"search: {stage.epochs} epochs ended at {stage.count:,} ReLUs; budgets {unreached} are met by projection. "
            f"More method.search.epochs or a larger method.search.lasso would reach them"
        )


def second_walk(plan: Plan) -> str:
    """The checkpoint of a walk to a budget that was passed before."""
    return f"again-{plan.request.budget}.ckpt"


def walking_stage(plan: Plan, budgets: list[int]) -> Stage:
    network = load_into(plan.request.new_student(), plan.results.weights(plan.teacher))
    to_sloped(network.network)
    return builder(plan.request.config.method.search)(
        network=network,
        teacher=frozen_teacher(plan, "search"),
        budgets=budgets,
        on_snapshot=partial(keep_snapshot, plan),
    )


def keep_snapshot(plan: Plan, snapshot: Snapshot) -> None:
    """Of several processes, the first one's."""
    if process_rank() > 0 or (artifact := plan.snapshot(snapshot.budget)).complete:
        return
    snapshot.mask.check_fits(plan.request.shapes)
    mask = write_mask(plan, artifact, snapshot.budget, snapshot.mask)
    if snapshot.scores is not None:
        write_weights(snapshot.scores, artifact.work / SCORES)
    description = {
        "asked": snapshot.budget,
        "met": snapshot.mask.count,
        "reached": snapshot.reached,
        "seconds": snapshot.seconds,
        "history": snapshot.history,
    }
    publish(plan, artifact, description, snapshot.weights)
    if snapshot.budget == plan.request.budget:  # of other budgets, other runs go on
        plan.results.keep(artifact, {WEIGHTS: snapshot.weights, SCORES: snapshot.scores, MASK: mask})


def write_mask(plan: Plan, artifact: Artifact, budget: int, mask: Mask) -> tuple[Mask, MaskMetadata]:
    """The mask file of an unfinished artifact, with what the mask belongs to; returned as it will be read."""
    backbone = plan.request.config.backbone
    metadata = MaskMetadata(
        backbone=backbone.name,
        convention=backbone.get("convention", "all"),
        input_size=plan.request.input_size,
        asked=budget,
        met=mask.count,
        key=plan.search.key,
    )
    mask.to_file(artifact.work / MASK, metadata)
    return mask, metadata


def search_inputs(plan: Plan) -> dict[str, Any]:
    """Arguments to build the search stage with, before there is anything to search: for finding wrong settings."""
    request = plan.request
    network = request.stage_network("search")
    inputs: dict[str, Any] = {"network": network, "teacher": request.stage_network("search", teacher=True)}
    if request.one_budget:
        inputs["budget"] = request.budget
        if request.allocated:
            inputs["sensitivities"] = plan.known_sensitivities or dict.fromkeys(request.shapes, 1.0)
        if request.planned_replacement is not None:
            inputs["fit"] = request.replacement_fit
        if plan.first is not None:
            inputs["first"] = {name: torch.zeros(shape) for name, shape in request.shapes.items()}
            top_mask(inputs["first"], plan.first.request.budget).apply(network.network)
        return inputs
    to_sloped(network.network)
    return inputs | {"budgets": [request.budget], "on_snapshot": None}
