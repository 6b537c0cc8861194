"""How a stage becomes an artifact: trained with the run's images and loggers, tested, published."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from relinearize.backbones.adapter import PixelInput
from relinearize.experiment.loggers import NoLogger, open_logger
from relinearize.experiment.plan import Plan, plain
from relinearize.experiment.store import Artifact
from relinearize.experiment.training import CHECKPOINT, fit
from relinearize.experiment.weights import read_weights, write_weights
from relinearize.methods.accuracy import accuracy
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.stage import Stage

STAGES = ("teacher", "search", "finetune", "sensitivity")
WEIGHTS, CONFIG = "weights.safetensors", "config.yaml"


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def load_into(network: PixelInput, weights: dict[str, Tensor]) -> PixelInput:
    network.network.load_state_dict(weights)
    return network


def frozen_teacher(plan: Plan) -> nn.Module:
    return frozen_copy(load_into(plan.new_network(), read_weights(plan.teacher.path / WEIGHTS)))


def train(plan: Plan, stage: Stage, artifact: Artifact, checkpoint: Path, logged: bool = True) -> None:
    """Fit `stage` with the run's images, precision and loggers, from `checkpoint` if there is one."""
    seed = plan.seed * 10 + STAGES.index(stage.name)  # stages draw different batches
    stage.use(
        train_loader=plan.data.train_loader(stage.batch_size, seed=seed, parts=stage.segments),
        validation_loader=plan.validation_loader(stage.selection),
        precision=plan.precision,
        seed=seed,
    )
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.is_file():
        say(f"{stage.name}: going on from {checkpoint}")
    with open_logger(plan, stage.name, artifact) if logged else contextlib.nullcontext(NoLogger()) as logger:
        fit(stage, plan.config.trainer, checkpoint, log_row=logger.row)


def tested(
    plan: Plan, stage: Stage, network: PixelInput, variant: str = ""
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The selected weights of a trained stage, and the accuracies of these and of the last epoch's on the test set.

    `variant`: which of the networks that the stage leaves (see Stage.variants); `network` is built like it.
    """
    weights, epoch = stage.selected()
    selected, last = (stage.variants(state)[variant] for state in (weights, stage.weights()))
    network.to(plan.accelerator)
    test_last = accuracy(load_into(network, last), plan.data.test_loader())
    test = accuracy(load_into(network, selected), plan.data.test_loader())
    holdout = plan.data.holdout_loader()
    return selected, {
        "test": test,
        "test_last": test_last,
        "holdout": accuracy(network, holdout) if holdout is not None else None,
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
