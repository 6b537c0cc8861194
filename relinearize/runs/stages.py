"""How a stage becomes an artifact: trained with the run's images and loggers, tested, published."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.routes import state_for
from relinearize.backbones.weights import write_weights
from relinearize.errors import UserError
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.losses import accuracy, measure_predictions
from relinearize.methods.stage.stage import Stage
from relinearize.private_inference.cost.backbones import recorded_name
from relinearize.progress import say
from relinearize.records.store import KEY_LENGTH, MASK, WEIGHTS, Artifact
from relinearize.relu.budget import short_count
from relinearize.relu.sites import to_replaced
from relinearize.runs.plan import Plan
from relinearize.tracking.interface import StageInfo, StageLogger
from relinearize.tracking.loggers import open_logger
from relinearize.training.checkpoint import Unfit, read_checkpoint
from relinearize.training.devices import peers
from relinearize.training.fit import fit
from relinearize.training.settings import quiet_lightning

STAGES = ("teacher", "search", "finetune", "sensitivity")


def stage_seed(seed: int, stage: str) -> int:
    """The seed of all that `stage` draws in a run of `seed`: batches, crops, attacks, first masks.

    Teacher, search, fine-tuning and sensitivity draw different ones. Two searches of a run (BCD's first, one that gives
    sensitivities) show the images in the same order: a search is the same whatever it is made for.
    """
    return seed * 10 + STAGES.index(stage)


def load_into(network: PixelInput, weights: dict[str, Tensor]) -> PixelInput:
    """Load a state dict, with or without batch-norm routes, into a network with or without them (see `state_for`).

    At removed positions the network has afterwards what the weights say. Results of earlier versions hold tensors that
    the forward pass of a traced network names; what that makes of them is in the network.
    """
    to_replaced(network.network, weights)
    own = network.network.state_dict()
    unsaved = {name for name, _ in network.network.named_buffers()} - own.keys()
    weights = {name: value for name, value in weights.items() if name not in unsaved}
    network.network.load_state_dict(state_for(weights, own))
    return network


def frozen_teacher(plan: Plan, stage: str) -> nn.Module:
    """The teacher for `stage`: all routes of its batch norms where the stage uses them, else one and folded away."""
    network = load_into(plan.request.stage_network(stage, teacher=True), plan.results.weights(plan.teacher))
    if len(plan.request.stage_routes(stage)) == 1:
        return frozen_copy(network)
    return network.eval().requires_grad_(False)


# Builds a stage from finished results. Other processes of a training are sent it: a function of a module, or a
# `functools.partial` of one.
Build = Callable[[Plan], Stage]


def train(plan: Plan, build: Build, checkpoint: Path, logged: bool = True, stage: Stage | None = None) -> Stage:
    """Fit the stage of `build` with the run's images, precision, devices and loggers, from `checkpoint` if it exists.

    `stage`: what `build` gives, if it was built before. Returns the stage, trained. Raises UserError for a checkpoint
    that does not fit the stage, and leaves it there: of this program or of the user's network, another version may.
    """
    stage = ready(plan, stage or build(plan))
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if read_checkpoint(checkpoint) is not None:
        say(f"{stage.name}: going on from {checkpoint}")
    training = plan.request.training
    task = functools.partial(train_as_peer, plan.request.plain_config, build, checkpoint)
    try:
        with (
            stage_logger(plan, stage.name, checkpoint.parent) if logged else nullcontext(StageLogger()) as logger,
            peers(training.devices if stage.epochs else 1, training.accelerator, task),
        ):
            fit(stage, training, checkpoint, log_rows=logger.rows, lightning_logger=logger.lightning)
    except Unfit as error:
        raise UserError(
            f"{checkpoint} does not fit this stage ({error}), which has changed since: go on with the version that "
            "wrote it, or delete it, and this training starts again"
        ) from error
    return stage


def train_as_peer(config: dict[str, Any], build: Build, checkpoint: Path, rank: int, meet: Callable[[], None]) -> None:
    """The part of process `rank` in a training on several devices (training/devices.py). It leaves nothing behind."""
    quiet_lightning()
    plan = Plan.of(OmegaConf.create(config))
    stage = ready(plan, build(plan), rank)
    meet()
    fit(stage, plan.request.training, checkpoint)


def ready(plan: Plan, stage: Stage, rank: int = 0) -> Stage:
    """The stage, given its images: for process `rank` of the run's devices its share of them."""
    request = plan.request
    seed = stage_seed(request.seed, stage.name)
    views = {} if stage.second_view is None else {"second_view": stage.second_view}
    # Without epochs there are no other processes (see `train`).
    share = {"rank": rank, "world_size": request.training.devices if stage.epochs else 1}
    validation = request.data.test_loader if stage.selection == "test" else request.data.holdout_loader
    stage.use(
        train_loader=request.data.train_loader(
            stage.batch_size, seed=seed, parts=stage.segments, shares=stage.batch_shares, **share, **views
        ),
        validation_loader=validation(drawn=stage.drawn_validation, **share),
        precision=request.training.precision,
        seed=seed,
    )
    return stage


def tested(
    plan: Plan, stage: Stage, network: PixelInput, variant: str = ""
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The selected weights of a trained stage, and the accuracies of these and of the last epoch's on the test set.

    `variant`: which of the networks that the stage leaves (see Stage.variants); `network` is built like it.
    """
    weights, epoch = stage.selected()
    selected, last = (stage.variants(state)[variant] for state in (weights, stage.weights()))
    network.to(plan.request.training.accelerator)
    test, predictions = measure_predictions(load_into(network, selected), plan.request.data.test_loader())
    if predictions["nll"] is None:
        say(f"{stage.name}: logits of a test image are not finite; so there are no calibration error and no likelihood")
    batches = plan.request.data.holdout_loader()
    holdout = accuracy(network, batches) if batches is not None else None
    same = last.keys() == selected.keys() and all(torch.equal(last[name], selected[name]) for name in last)
    return selected, {
        "test": test,
        "test_last": test if same else accuracy(load_into(network, last), plan.request.data.test_loader()),
        "holdout": holdout,
        "n_test": plan.request.data.sizes["test"],
        "n_holdout": plan.request.data.sizes["holdout"],
        "selection": stage.selection,
        "selected_epoch": epoch,
        "predictions": predictions,
    }


def publish(plan: Plan, artifact: Artifact, description: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Turn the work folder into the finished artifact of `plan`."""
    write_weights(weights, artifact.work / WEIGHTS)
    artifact.publish(artifact.work, {**description, "config": plan.request.plain_config})


# ---- what loggers are told of the stages: names, keys, files, and what each stage is made from ----------------------


def stage_logger(plan: Plan, stage: str, folder: Path) -> AbstractContextManager[StageLogger]:
    """The logger of one stage, whose checkpoint lies in `folder`."""
    return open_logger(plan.request.logger, stage_info(plan, stage), folder)


def stage_info(plan: Plan, stage: str) -> StageInfo:
    """`stage` of `plan`: teacher, sensitivity, search (at the plan's budget) or finetune."""
    request, config = plan.request, plan.request.config
    teacher = () if stage == "teacher" else (stage_info(plan, "teacher"),)
    # A search serves many budgets and a teacher many searches: their names and tags leave out what is not theirs.
    subject = f"{request.subject}-s{request.seed}"
    tags = [config.dataset.name, recorded_name(config.backbone)]
    if stage == "teacher":
        artifact, inputs = plan.teacher, ()
        name = title = f"teacher-{without_key(artifact)}"
    elif stage == "sensitivity":
        artifact, inputs = plan.sensitivity, teacher
        name, title = f"sensitivity-{without_key(artifact)}", f"sensitivity-{subject}"
    elif stage == "search":
        first = () if plan.first is None else (stage_info(plan.first, "search"),)
        artifact, inputs = plan.snapshot(), (*teacher, *(sensitivity_info(plan) if request.allocated else ()), *first)
        budget = short_count(request.budget)
        name = f"{without_key(plan.search)}-{budget}"
        title = f"{config.method.name}-search-{f'{budget}-' if request.one_budget else ''}{subject}"
        tags += [request.method_name, *([f"{request.budget}-relus"] if request.one_budget else [])]
    else:
        artifact, inputs = plan.finetune, (*teacher, stage_info(plan, "search"))
        inputs += () if request.allocated else sensitivity_info(plan)
        name = title = request.name
        tags += [request.method_name, f"{request.budget}-relus"]
    files = {"weights": artifact.path / WEIGHTS}
    if stage in ("search", "finetune"):
        files = {"mask": (artifact if stage == "search" else plan.chosen).path / MASK, **files}
    group = f"{request.method_name}-{request.subject}"
    return StageInfo(stage, artifact, name, title, group, tuple(tags), files, inputs, request.plain_config)


def sensitivity_info(plan: Plan) -> tuple[StageInfo, ...]:
    """What the sensitivities of the sites come from, where something has to be made for them."""
    if plan.sensitivity is None:
        return ()
    return (stage_info(plan.sensitivity_maker, "search" if plan.sensitivity_learned else "sensitivity"),)


def without_key(artifact: Artifact) -> str:
    """The readable part of its folder's name."""
    return artifact.path.name.removesuffix(f"-{artifact.key[:KEY_LENGTH]}")
