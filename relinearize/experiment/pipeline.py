"""One run: teacher, search, finetune, test, record. A straight line; what was done before answers at once."""

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from relinearize.backbones.adapter import PixelInput
from relinearize.errors import UserError
from relinearize.experiment.describe import MASK, make_record
from relinearize.experiment.loggers import NoLogger, open_logger
from relinearize.experiment.plan import Plan, plain
from relinearize.experiment.records import RECORD_FILE, Record
from relinearize.experiment.store import Artifact, write_text
from relinearize.experiment.training import CHECKPOINT, fit, read_checkpoint
from relinearize.experiment.weights import match_weights, read_weights, write_weights
from relinearize.methods.accuracy import accuracy
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.snapshot import Snapshot
from relinearize.methods.stage import Stage
from relinearize.relu.budget import top_mask
from relinearize.relu.mask import Mask, MaskMetadata
from relinearize.relu.sites import to_masked, to_sloped

WEIGHTS, CONFIG = "weights.safetensors", "config.yaml"


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def run(config: DictConfig) -> tuple[Record, Path]:
    """Do the run that `config` describes, or find it done. Returns its record and its folder."""
    plan = Plan(config)
    if not plan.run.complete:
        with plan.run.lock(say):
            if not plan.run.complete:
                make_run(plan)
    return Record.read(plan.run.path / RECORD_FILE), plan.run.path


def make_run(plan: Plan) -> None:
    """All stages in a row and the run's folder: record, resolved config, mask and weights."""
    say(f"{plan.name}: {plan.budget:,} of {plan.total:,} ReLUs, {plan.config.dataset.title}, {plan.accelerator}")
    reused = {
        "teacher": plan.teacher.complete,
        "search": plan.snapshot(plan.budget).complete,
        "finetune": plan.finetune.complete,
    }
    check_stages(plan)
    make_teacher(plan)
    make_snapshot(plan)
    make_finetuned(plan)
    record = make_record(plan, reused)
    folder = plan.run.work
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record.write(folder / RECORD_FILE)
    write_text(folder / CONFIG, OmegaConf.to_yaml(plan.config, resolve=True))
    for artifact, file in ((plan.finetune, WEIGHTS), (plan.snapshot(plan.budget), MASK)):
        copy_file(artifact.path / file, folder / file)
    with open_logger(plan, "finetune", plan.finetune) as logger:
        logger.finish(record, folder)
    plan.run.publish(folder, {"record": RECORD_FILE})


def check_stages(plan: Plan) -> None:
    """Build every stage once, so that a wrong setting of the last is not found after the training of the first."""
    sloped = plan.new_network()
    to_sloped(sloped.network)
    inputs = {
        "teacher": {"network": plan.all_relu},
        "search": {"network": sloped, "teacher": plan.all_relu, "budgets": [plan.budget], "on_snapshot": None},
        "finetune": {"network": plan.all_relu, "teacher": plan.all_relu},
    }
    for name, given in inputs.items():
        build = instantiate(plan.config.method[name], _partial_=True, _convert_="all")
        try:
            if hasattr(build.func, "scores"):
                build()
            elif not (name == "teacher" and plan.config.teacher.weights):
                build(**given).check_selection(plan.config.dataset.holdout)
        except TypeError as error:  # keys that the class does not take, set for a stage that was exchanged since
            keys = ", ".join(key for key in plan.config.method[name] if not key.startswith("_"))
            raise UserError(f"method.{name} ({build.func.__name__}) does not take all of {keys}: {error}") from error


def copy_file(source: Path, target: Path) -> None:
    """A hard link where the file system allows it (weights are never changed in place), else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# ---- networks from artifacts ----


def load_into(network: PixelInput, weights: dict[str, Tensor]) -> PixelInput:
    network.network.load_state_dict(weights)
    return network


def frozen_teacher(plan: Plan) -> nn.Module:
    return frozen_copy(load_into(plan.new_network(), read_weights(plan.teacher.path / WEIGHTS)))


def train(plan: Plan, stage: Stage, artifact: Artifact, checkpoint: Path, logged: bool = True) -> None:
    """Fit `stage` with the run's images, precision and loggers, from `checkpoint` if there is one."""
    seed = plan.seed * 10 + ("teacher", "search", "finetune").index(stage.name)  # stages draw different batches
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


def tested(plan: Plan, stage: Stage, network: PixelInput) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The selected weights of a trained stage, and the accuracies of these and of the last epoch's on the test set."""
    selected, epoch = stage.selected()
    last = stage.weights()
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


# ---- the three stages ----


def make_teacher(plan: Plan) -> None:
    """The all-ReLU network: trained, or read from `teacher.weights`."""
    if plan.teacher.complete:
        return
    with plan.teacher.lock(say):
        if plan.teacher.complete:
            return
        given = plan.config.teacher.weights
        folder = plan.teacher.work
        if given is not None:
            weights = match_weights(plan.all_relu.network, read_weights(Path(given)), Path(given))
            network = load_into(plan.new_network(), weights).to(plan.accelerator)
            holdout = plan.data.holdout_loader()
            accuracies = {
                "test": accuracy(network, plan.data.test_loader()),
                "holdout": accuracy(network, holdout) if holdout is not None else None,
                "selection": "file",
            }
            description = {"seconds": 0.0, "history": [], "accuracy": accuracies}
        else:
            network = plan.new_network()
            stage = instantiate(plan.config.method.teacher, _partial_=True, _convert_="all")(network=network)
            train(plan, stage, plan.teacher, folder / CHECKPOINT)
            weights, accuracies = tested(plan, stage, plan.new_network())
            description = {"seconds": stage.seconds, "history": stage.history, "accuracy": accuracies}
        publish(plan.teacher, folder, plan.config, description, weights)


def make_snapshot(plan: Plan) -> None:
    """The mask of the run's budget and the weights of that moment: from the store, or by walking (on) the search."""
    if plan.snapshot(plan.budget).complete:
        return
    with plan.search.lock(say):
        if plan.snapshot(plan.budget).complete:
            return
        search = instantiate(plan.config.method.search, _partial_=True, _convert_="all")
        if hasattr(search.func, "scores"):
            scored_snapshot(plan, search())
        else:
            walk_search(plan, search)


def scored_snapshot(plan: Plan, search: Any) -> None:
    """A search without training: the mask is the top of its scores, the weights are the teacher's."""
    started = time.monotonic()
    mask = top_mask(search.scores(plan.shapes, plan.seed), plan.budget)
    weights = read_weights(plan.teacher.path / WEIGHTS)
    keep_snapshot(plan, Snapshot(plan.budget, mask, weights, True, time.monotonic() - started))


def walk_search(plan: Plan, search: Any) -> None:
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
    network = load_into(plan.new_network(), read_weights(plan.teacher.path / WEIGHTS))
    to_sloped(network.network)
    stage = search(
        network=network,
        teacher=frozen_teacher(plan),
        budgets=wanted,
        on_snapshot=lambda snapshot: keep_snapshot(plan, snapshot),
    )
    train(plan, stage, plan.search, target, logged=not passed)  # a second walk's rows stand in the log already
    unreached = stage.finish()
    if unreached:
        say(
            f"search: {stage.epochs} epochs ended at {stage.count:,} ReLUs; budgets {unreached} are met by projection. "
            f"More method.search.epochs or a larger method.search.lasso would reach them"
        )
    if passed:
        target.unlink()


def keep_snapshot(plan: Plan, snapshot: Snapshot) -> None:
    artifact = plan.snapshot(snapshot.budget)
    if artifact.complete:
        return
    folder = artifact.work
    folder.mkdir(parents=True, exist_ok=True)
    snapshot.mask.to_file(folder / MASK, mask_metadata(plan, snapshot.budget, snapshot.mask))
    description = {
        "asked": snapshot.budget,
        "met": snapshot.mask.count,
        "reached": snapshot.reached,
        "seconds": snapshot.seconds,
        "history": snapshot.history,
    }
    publish(artifact, folder, plan.config, description, snapshot.weights)


def make_finetuned(plan: Plan) -> None:
    """The search's weights trained on under its mask, then tested once."""
    if plan.finetune.complete:
        return
    with plan.finetune.lock(say):
        if plan.finetune.complete:
            return
        mask, _ = Mask.from_file(plan.snapshot(plan.budget).path / MASK)

        def linearized() -> PixelInput:
            network = plan.new_network()
            to_masked(network.network, mask)
            return load_into(network, read_weights(plan.snapshot(plan.budget).path / WEIGHTS))

        stage = instantiate(plan.config.method.finetune, _partial_=True, _convert_="all")(
            network=linearized(), teacher=frozen_teacher(plan)
        )
        folder = plan.finetune.work
        train(plan, stage, plan.finetune, folder / CHECKPOINT)
        weights, accuracies = tested(plan, stage, linearized())
        description = {"seconds": stage.seconds, "history": stage.history, "accuracy": accuracies}
        publish(plan.finetune, folder, plan.config, description, weights)


def publish(
    artifact: Artifact, folder: Path, config: DictConfig, description: dict[str, Any], weights: dict[str, Tensor]
) -> None:
    """Turn the work folder into the finished artifact; the checkpoint goes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(weights, folder / WEIGHTS)
    artifact.publish(folder, {**description, "config": plain(config)})
    (artifact.path / CHECKPOINT).unlink(missing_ok=True)  # not before: a kill in between would cost the whole training


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
