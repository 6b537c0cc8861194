"""The teacher of a run: the all-ReLU network, trained, or read from a user's file."""

from pathlib import Path

from hydra.utils import instantiate

from relinearize.methods.losses import accuracy
from relinearize.methods.stage import Stage
from relinearize.progress import say
from relinearize.runs.plan import Plan
from relinearize.runs.stages import load_into, publish, tested, train
from relinearize.runs.weights import match_weights, read_weights
from relinearize.training.checkpoint import CHECKPOINT


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
            stage = train(plan, teacher_stage, folder / CHECKPOINT)
            _, accuracies = tested(plan, stage, plan.new_network())
            weights, _ = stage.selected()  # with all routes
            description = {"seconds": stage.seconds, "history": stage.history, "accuracy": accuracies}
        publish(plan.teacher, folder, plan.config, description, weights)


def teacher_stage(plan: Plan) -> Stage:
    build = instantiate(plan.config.method.teacher, _partial_=True, _convert_="all")
    return build(network=plan.stage_network("teacher"))
