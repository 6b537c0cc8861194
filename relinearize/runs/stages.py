"""How a stage becomes an artifact: trained with the run's images and loggers, tested, published."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.routes import route_state, routed_state, routes_of
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.losses import accuracy
from relinearize.methods.stage import Stage
from relinearize.progress import say
from relinearize.records.store import WEIGHTS, Artifact
from relinearize.runs.plan import Plan, plain
from relinearize.runs.stage_info import stage_info
from relinearize.runs.weights import read_weights, write_weights
from relinearize.tracking.interface import StageLogger
from relinearize.tracking.loggers import open_logger
from relinearize.training.checkpoint import CHECKPOINT
from relinearize.training.devices import peers
from relinearize.training.fit import fit
from relinearize.training.settings import quiet_lightning

STAGES = ("teacher", "search", "finetune", "sensitivity")


def load_into(network: PixelInput, weights: dict[str, Tensor]) -> PixelInput:
    """Load a state dict, with or without batch-norm routes, into a network with or without them.

    Routes that the weights lack start as their one set; a network without routes gets the clean ones.
    """
    wanted = network.network.state_dict().keys()
    if weights.keys() != wanted:
        routes = routes_of(network.network)
        weights = routed_state(weights, routes) if len(routes) > 1 else route_state(weights, "clean")
    network.network.load_state_dict(weights)
    return network


def frozen_teacher(plan: Plan, stage: str) -> nn.Module:
    """The teacher for `stage`: all routes of its batch norms where the stage uses them, else one and folded away."""
    weights = read_weights(plan.teacher.path / WEIGHTS)
    network = load_into(plan.teacher_network(stage), weights)
    if len(plan.stage_routes(stage)) == 1:
        return frozen_copy(network)
    return network.eval().requires_grad_(False)


# Builds a stage from what is in the store. Other processes of a training are sent it: a function of a module, or a
# `functools.partial` of one.
Build = Callable[[Plan], Stage]


def train(plan: Plan, build: Build, checkpoint: Path, logged: bool = True) -> Stage:
    """Fit the stage of `build` with the run's images, precision, devices and loggers, from `checkpoint` if it exists.

    Returns the stage, trained.
    """
    stage = ready(plan, build)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.is_file():
        say(f"{stage.name}: going on from {checkpoint}")
    devices = plan.training.devices if stage.epochs else 1
    task = functools.partial(train_as_peer, plan.plain_config, build, checkpoint)
    with (
        stage_logger(plan, stage.name, checkpoint.parent) if logged else nullcontext(StageLogger()) as logger,
        peers(devices, plan.accelerator, task),
    ):
        fit(stage, plan.training, checkpoint, log_rows=logger.rows, lightning_logger=logger.lightning)
    return stage


def stage_logger(plan: Plan, stage: str, folder: Path) -> AbstractContextManager[StageLogger]:
    """The logger of one stage, whose checkpoint lies in `folder`."""
    return open_logger(plan.logger, stage_info(plan, stage), folder)


def train_as_peer(config: dict[str, Any], build: Build, checkpoint: Path, rank: int, meet: Callable[[], None]) -> None:
    """The part of process `rank` in a training on several devices (training/devices.py). It leaves nothing behind."""
    quiet_lightning()
    plan = Plan(OmegaConf.create(config))
    stage = ready(plan, build, rank)
    meet()
    fit(stage, plan.training, checkpoint)


def ready(plan: Plan, build: Build, rank: int = 0) -> Stage:
    """The stage of `build` with its images: for process `rank` of the run's devices its share of them."""
    stage = build(plan)
    seed = plan.seed * 10 + STAGES.index(stage.name)  # stages draw different batches
    views = {} if stage.second_view is None else {"second_view": stage.second_view}
    share = {"rank": rank, "world_size": plan.training.devices}
    stage.use(
        train_loader=plan.data.train_loader(stage.batch_size, seed=seed, parts=stage.segments, **share, **views),
        validation_loader=plan.validation_loader(stage.selection, **share),
        precision=plan.precision,
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
    network.to(plan.accelerator)
    test = accuracy(load_into(network, selected), plan.data.test_loader())
    batches = plan.data.holdout_loader()
    holdout = accuracy(network, batches) if batches is not None else None
    same = last.keys() == selected.keys() and all(torch.equal(last[name], selected[name]) for name in last)
    return selected, {
        "test": test,
        "test_last": test if same else accuracy(load_into(network, last), plan.data.test_loader()),
        "holdout": holdout,
        "n_test": plan.data.sizes["test"],
        "n_holdout": plan.data.sizes["holdout"],
        "selection": stage.selection,
        "selected_epoch": epoch,
    }


def publish(
    artifact: Artifact, folder: Path, config: DictConfig, description: dict[str, Any], weights: dict[str, Tensor]
) -> None:
    """Turn the work folder into the finished artifact; the checkpoint goes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(weights, folder / WEIGHTS)
    artifact.publish(folder, {**description, "config": plain(config)})
    (artifact.path / CHECKPOINT).unlink(missing_ok=True)  # not before: a kill in between would cost the whole training
