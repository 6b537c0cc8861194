"""The teacher of a run: the all-ReLU network, trained, or read from a user's file."""

from relinearize.backbones.weights import match_weights, read_weights
from relinearize.methods.losses import accuracy, measure_predictions
from relinearize.methods.stage.stage import Stage
from relinearize.progress import say
from relinearize.records.store import CHECKPOINT, WEIGHTS
from relinearize.runs.plan import Plan
from relinearize.runs.stages import load_into, publish, tested, train
from relinearize.targets import builder


def make_teacher(plan: Plan, stage: Stage | None = None) -> None:
    """The all-ReLU network: trained, or read from `teacher.weights`. `stage`: its stage, if it was built before."""
    request, path = plan.request, plan.request.teacher_file
    if path is not None:
        weights = match_weights(request.all_relu.network, read_weights(path), path)
        network = load_into(request.new_network(), weights).to(request.training.accelerator)
        holdout = request.data.holdout_loader()
        test, predictions = measure_predictions(network, request.data.test_loader())
        accuracies = {
            "test": test,
            "predictions": predictions,
            "holdout": accuracy(network, holdout) if holdout is not None else None,
            "selection": "file",
        }
        images, found = ("test", accuracies["test"]) if holdout is None else ("held-out", accuracies["holdout"])
        say(f"teacher.weights={path}: {found:.2f} % of the {images} images")
        description = {"seconds": 0.0, "history": [], "accuracy": accuracies}
    else:
        stage = train(plan, teacher_stage, plan.teacher.work / CHECKPOINT, stage=stage)
        _, accuracies = tested(plan, stage, request.new_network())
        weights, _ = stage.selected()  # with all routes
        description = {"seconds": stage.seconds, "history": stage.history, "accuracy": accuracies}
    publish(plan, plan.teacher, description, weights)
    plan.results.keep(plan.teacher, {WEIGHTS: weights})


def teacher_stage(plan: Plan) -> Stage:
    return builder(plan.request.config.method.teacher)(network=plan.request.stage_network("teacher"))
