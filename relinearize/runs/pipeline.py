"""One run: teacher, search, fine-tuning, test, record. What was done before is found in the store."""

import itertools
import re
import shutil
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.weights import write_weights, zero_share
from relinearize.data.loaders import by_size
from relinearize.errors import UserError
from relinearize.files import DAMAGED, move_into, write_text
from relinearize.machine import usable_cores
from relinearize.methods.replacement import GaussianFit
from relinearize.methods.scores import check_scores
from relinearize.methods.stage.stage import UNTRAINED, Stage
from relinearize.progress import say
from relinearize.records.run import RECORD_FILE, Record
from relinearize.records.store import CHECKPOINT, CONFIG, MASK, PUBLISHED, WEIGHTS
from relinearize.relu.budget import top_mask
from relinearize.relu.replacement import COEFFICIENTS
from relinearize.relu.sites import to_masked, to_replaced
from relinearize.runs.build import check_network
from relinearize.runs.describe import epochs_begun, make_record
from relinearize.runs.plan import Plan, keys_of
from relinearize.runs.recall import note_of, remember
from relinearize.runs.request import Request
from relinearize.runs.search import check_scores_left, make_first, make_mask, make_sensitivities, search_inputs
from relinearize.runs.stages import (
    frozen_teacher,
    load_into,
    publish,
    stage_info,
    stage_logger,
    stage_seed,
    tested,
    train,
)
from relinearize.runs.submodels import (
    copy_file,
    leave_record,
    leave_submodels,
    narrower_input,
    run_mask_of,
    submodel_network,
    submodels,
)
from relinearize.runs.teacher import make_teacher
from relinearize.targets import builder
from relinearize.tracking.loggers import log_finished
from relinearize.training.checkpoint import read_checkpoint, write_checkpoint

REPLACEMENT = "replacement.ckpt"  # of a fine-tuning: the coefficients at removed positions
FIT_BATCH = 128  # images that are drawn at a time for them


def run(config: DictConfig) -> tuple[Record, Path]:
    """Do the run that `config` describes, or find it done. Returns its record and its folder."""
    note = note_of(config)  # before the plan fills in what the config leaves to the images
    plan = Plan.of(config)
    if config.get("repair"):
        remove_damaged(plan)
    plan.run.make(partial(make_run, plan))
    record = Record.read(plan.run.file(RECORD_FILE))
    if aside(plan).is_dir():
        take_back(plan)
    remember(note, plan.run.path)
    log_finished(plan.request.logger, stage_info(plan, "finetune"), record, plan.run.path)
    return record, plan.run.path


def remove_damaged(plan: Plan) -> None:
    """Remove the run's stored results that have damaged files; they are then made again."""
    for artifact in plan.read:
        with artifact.lock():
            try:
                artifact.check_place()
                if artifact.complete:
                    artifact.check()
            except UserError as error:
                say(str(error))
                keeps = artifact is plan.run and artifact.path.is_dir() and not artifact.path.is_symlink()
                if keeps and not aside(plan).exists():
                    artifact.path.rename(aside(plan))
                else:
                    remove(artifact.path)


def aside(plan: Plan) -> Path:
    """Where the folder of a damaged run waits for the new one."""
    return plan.run.path.with_name(f"{plan.run.path.name}{DAMAGED}")


def take_back(plan: Plan) -> None:
    """What else was in the folder of the damaged run: bundles, inferences, robust evaluations."""
    with plan.run.lock():
        if aside(plan).is_dir():
            move_into(aside(plan), plan.run.path)
            shutil.rmtree(aside(plan))


def remove(path: Path) -> None:
    """The folder; of a link, the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)


def make_run(plan: Plan) -> None:
    """All stages in a row, and the run's folder: record, resolved config, mask and weights."""
    request, title = plan.request, plan.request.config.dataset.title
    device = request.training.accelerator
    if device == "cpu":
        device += f", {torch.get_num_threads()} of {usable_cores()} cores"
    say(f"{request.name}: {request.budget:,} of {request.total:,} ReLUs, {title}, {device}")
    for artifact in plan.read:
        artifact.check_place()
    before = set(PUBLISHED)
    checked = check_stages(plan)
    plan.teacher.make(partial(make_teacher, plan, checked.get("method.teacher")))
    make_sensitivities(plan)  # the record reads it and the first search, also where the mask is there
    make_first(plan)
    make_mask(plan)
    plan.finetune.make(partial(make_finetuned, plan))
    made = PUBLISHED - before  # and not another job's, for which this one waited
    leave_run(plan, make_record(plan, {name: one.path not in made for name, one in plan.artifacts.items()}))


def make_finetuned(plan: Plan) -> None:
    """The search's weights trained on under its mask, then tested once."""
    folder = plan.finetune.work
    fit_replacement(plan)
    stage = train(plan, finetune_stage, folder / CHECKPOINT)
    mask, _ = plan.results.mask(plan.chosen)
    weights, accuracies = tested(plan, stage, submodel_network(plan.request, 1.0, mask))
    description = {"seconds": stage.seconds, "history": stage.history, "accuracy": accuracies, "submodels": {}}
    description["zero_weights"] = zero_share(weights)
    for name, fraction in submodels(stage).items():
        part, found = tested(plan, stage, submodel_network(plan.request, fraction, mask), name)
        write_weights(part, folder / name / WEIGHTS)
        description["submodels"][name] = {"fraction": fraction, "accuracy": found}
    publish(plan, plan.finetune, description, weights)


def fit_replacement(plan: Plan) -> None:
    """What stands at removed positions, fitted once to what the fine-tuning begins with; a file beside the training.

    A search that chooses it position by position has left it in its weights.
    """
    request, path = plan.request, plan.finetune.work / REPLACEMENT
    if request.replacement is None or read_checkpoint(path) is not None:
        return
    weights = plan.results.weights(plan.chosen)
    names = [f"{site}.{COEFFICIENTS}" for site in request.shapes]
    if left := {name: weights[name] for name in names if name in weights}:
        write_checkpoint(left, path)
        return
    network = begun(plan, request.new_student()).to(request.training.accelerator)
    seed = stage_seed(request.seed, "finetune")
    batch = max(2, by_size(FIT_BATCH, request.source.image_size))  # the loader gives no single images
    loader = request.data.train_loader(batch, seed=seed)
    loader.seek(UNTRAINED)
    fit = request.replacement_fit
    batches = itertools.islice(iter(loader), -(-fit.images // batch))
    write_checkpoint(fit.coefficients(network, batches, seed), path)


def begun(plan: Plan, network: PixelInput) -> PixelInput:
    """`network` as the fine-tuning begins: with the mask of the search and, where all its ReLUs stand at first, the
    teacher's weights; else those of the search.
    """
    to_masked(network.network, plan.results.mask(plan.chosen)[0])
    return load_into(network, plan.results.weights(plan.teacher if plan.request.begins_as_teacher else plan.chosen))


def finetune_stage(plan: Plan) -> Stage:
    """As it begins, with what stands at removed positions."""
    network = begun(plan, plan.request.stage_network("finetune"))
    if plan.request.replacement is not None:
        to_replaced(network.network, read_checkpoint(plan.finetune.work / REPLACEMENT))
    build, further = builder(plan.request.config.method.finetune), narrower_input(plan.request) | epochs_left(plan)
    stage = build(network=network, teacher=frozen_teacher(plan, "finetune"), **further)
    if isinstance(fit := plan.request.replacement_fit, GaussianFit):
        stage.hold_polynomials(fit)
    return stage


def epochs_left(plan: Plan) -> dict[str, int]:
    """The fine-tuning's epochs where the run has `total_epochs`: what sensitivity and search have left."""
    request = plan.request
    if request.total_epochs is None or not request.config.method.finetune.epochs:
        return {}
    return {"epochs": request.total_epochs - check_total_epochs(plan, {})}


def check_total_epochs(plan: Plan, untrained: dict[str, Stage]) -> int:
    """Epochs of sensitivity and search together: those of finished ones, and the fewest of `untrained` ones.

    UserError where `total_epochs` leaves the fine-tuning none. A fine-tuning of no epochs stays one.
    """
    made = [artifact for name, artifact in plan.artifacts.items() if name not in ("teacher", "finetune")]
    spent = sum(epochs_begun(artifact.describe()["history"]) for artifact in made if artifact.complete)
    before = untrained.keys() - {"method.teacher", "method.finetune"}
    spent += sum(untrained[key].fewest_epochs for key in before)
    total = plan.request.total_epochs
    if total is not None and plan.request.config.method.finetune.epochs and spent >= total:
        raise UserError(
            f"total_epochs={total}: sensitivity and search take {spent} or more, and nothing is left for the "
            f"fine-tuning; give at least {spent + 1}"
        )
    return spent


def leave_run(plan: Plan, record: Record) -> None:
    """The run's folder, with a sub-folder for each further network of the fine-tuning."""
    folder = plan.run.work
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / CONFIG, OmegaConf.to_yaml(plan.request.config, resolve=True))
    copy_file(plan.finetune.file(WEIGHTS), folder / WEIGHTS)
    mask, metadata = run_mask_of(plan)
    mask.to_file(folder / MASK, metadata)
    leave_record(record, folder)
    leave_submodels(plan, record, folder)
    with stage_logger(plan, "finetune", folder) as logger:
        logger.finish(record, folder)
    plan.run.publish(folder, {"record": RECORD_FILE})


def check_monitors(request: Request, key: str, stage: Stage) -> None:
    """UserError where EarlyStopping looks for a column of the history before the stage's first epoch ends."""
    for name, entry in request.training.callbacks.items():
        strict = entry["_target_"].endswith("EarlyStopping") and entry.get("strict", True)
        ours = str(entry.get("monitor")).startswith(("train/", "val/", "relu/"))
        looks = strict and ours and entry.get("check_on_train_epoch_end") is not False
        if looks and stage.epochs and stage.segments > 1:
            raise UserError(
                f"callbacks.{name}: {key} has {stage.segments} segments an epoch, and no metric before the first epoch "
                f"ends; give +callbacks.{name}.strict=false and a patience that counts segments"
            )


def check_stages(plan: Plan) -> dict[str, Stage]:
    """Build the stages that are to be trained, so that a wrong setting of the last is found before the first trains.

    Returns them by config key. That of the teacher can be trained as it is; the others wait for what they start from.
    """
    request, config = plan.request, plan.request.config
    check_network(request.all_relu, request.source)
    check_scores_left(plan)
    inputs = {}
    if not plan.teacher.complete and request.teacher_file is None:
        inputs["method.teacher"] = {"network": request.stage_network("teacher")}
    if not plan.snapshot().complete:
        inputs["method.search"] = search_inputs(plan)
    if not plan.finetune.complete:
        teacher = request.stage_network("finetune", teacher=True)
        network = request.stage_network("finetune")
        inputs["method.finetune"] = {"network": network, "teacher": teacher, **narrower_input(request)}
    builds = {key: builder(OmegaConf.select(config, key)) for key in inputs}
    if plan.sensitivity is not None and not plan.sensitivity.complete:
        key = plan.sensitivity_key
        if plan.sensitivity_learned:
            inputs[f"{key}.search"] = search_inputs(plan.sensitivity_maker)
            builds[f"{key}.search"] = builder(request.sensitivity["search"])
        else:
            inputs[key] = {"network": request.new_network()}
            builds[key] = builder(plan.sensitivity_settings)
    if plan.sensitivity_first is not None and not plan.sensitivity_first.snapshot().complete:
        key = f"{plan.sensitivity_key}.search.first"
        inputs[key] = search_inputs(plan.sensitivity_first)
        builds[key] = builder(request.sensitivity["search"]["first"])
    if plan.first is not None and not plan.first.snapshot().complete:
        inputs["method.search.first"] = search_inputs(plan.first)
        builds["method.search.first"] = builder(config.method.search.first)
    stages = {}
    for key, build in builds.items():
        try:
            with keys_of(key):
                if hasattr(build.func, "scores"):
                    compute = partial(build().scores, request.shapes, request.seed)
                    top_mask(check_scores(key, compute, request.shapes), request.budget)
                else:
                    stages[key] = build(**inputs[key])
                    name = key.rpartition(".")[2].replace("first", "search")
                    if stages[key].name != name:
                        raise UserError(
                            f"{key}: {build.func.__name__}.name is {stages[key].name!r}; it must be {name!r}"
                        )
                    stages[key].check_selection(config.dataset.get("holdout", 0))
                    stages[key].check_devices(request.training.devices)
                    stages[key].rehearse(torch.zeros(2, *request.input_size), torch.zeros(2, dtype=torch.long))
            if key in stages:
                check_monitors(request, key, stages[key])
        except TypeError as error:  # keys that the class does not take, set for a stage that was exchanged since
            named = re.search(r"keyword argument '(\w+)'", str(error))
            if named is None or named[1] not in OmegaConf.select(config, key):
                raise UserError(f"{key} ({build.func.__name__}): {error}") from error
            wrong = f"{key}.{named[1]}"
            raise UserError(f"{wrong}: {build.func.__name__} does not take it; leave it out: '~{wrong}'") from error
    check_total_epochs(plan, stages)
    return stages
