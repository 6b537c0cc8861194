"""One run: teacher, search, finetune, test, record. A straight line; what was done before answers at once."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from relinearize.errors import UserError
from relinearize.files import write_text
from relinearize.methods.stage import Stage
from relinearize.progress import say
from relinearize.records.run import RECORD_FILE, Record
from relinearize.records.store import CONFIG, MASK, WEIGHTS
from relinearize.relu.mask import Mask
from relinearize.relu.sites import to_masked
from relinearize.runs.describe import make_record
from relinearize.runs.plan import Plan
from relinearize.runs.search import make_mask, search_inputs
from relinearize.runs.stage_info import stage_info
from relinearize.runs.stages import frozen_teacher, load_into, publish, stage_logger, tested, train
from relinearize.runs.submodels import check_submodels, submodel_config, submodel_network, submodel_record, submodels
from relinearize.runs.teacher import make_teacher
from relinearize.runs.weights import read_weights, write_weights
from relinearize.tracking.loggers import log_finished
from relinearize.training.checkpoint import CHECKPOINT


def run(config: DictConfig) -> tuple[Record, Path]:
    """Do the run that `config` describes, or find it done. Returns its record and its folder."""
    plan = Plan(config)
    if not plan.run.complete:
        with plan.run.lock(say):
            if not plan.run.complete:
                make_run(plan)
    record = Record.read(plan.run.path / RECORD_FILE)
    log_finished(plan.logger, stage_info(plan, "finetune"), record, plan.run.path)
    return record, plan.run.path


def make_run(plan: Plan) -> None:
    """All stages in a row and the run's folder: record, resolved config, mask and weights."""
    say(f"{plan.name}: {plan.budget:,} of {plan.total:,} ReLUs, {plan.config.dataset.title}, {plan.accelerator}")
    reused = {name: artifact.complete for name, artifact in plan.artifacts.items()}
    check_stages(plan)
    make_teacher(plan)
    make_mask(plan)
    make_finetuned(plan)
    record = make_record(plan, reused)
    folder = plan.run.work
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record.write(folder / RECORD_FILE)
    write_text(folder / CONFIG, OmegaConf.to_yaml(plan.config, resolve=True))
    for artifact, file in ((plan.finetune, WEIGHTS), (plan.chosen, MASK)):
        copy_file(artifact.path / file, folder / file)
    leave_submodels(plan, record, folder)
    with stage_logger(plan, "finetune", folder) as logger:
        logger.finish(record, folder)
    plan.run.publish(folder, {"record": RECORD_FILE})


def check_stages(plan: Plan) -> None:
    """Build every stage once, so that a wrong setting of the last is not found after the training of the first."""
    config = plan.config
    inputs = {
        "method.teacher": {"network": plan.stage_network("teacher")},
        "method.search": search_inputs(plan),
        "method.finetune": {
            "network": plan.stage_network("finetune"),
            "teacher": plan.teacher_network("finetune"),
        },
    }
    if config.teacher.weights:
        inputs.pop("method.teacher")
    builds = {key: instantiate(OmegaConf.select(config, key), _partial_=True, _convert_="all") for key in inputs}
    if plan.allocated and plan.sensitivity_source.trained:
        inputs["sensitivity"] = {"network": plan.new_network()}
        builds["sensitivity"] = plan.sensitivity_source.build
    if plan.allocated and plan.sensitivity_source.learned:
        inputs["sensitivity.search"] = search_inputs(plan.sensitivity_source.maker)
        builds["sensitivity.search"] = instantiate(config.sensitivity.search, _partial_=True, _convert_="all")
    for key, build in builds.items():
        try:
            if hasattr(build.func, "scores"):
                build()
                if getattr(build.func, "keeps_all", False) and plan.budget < plan.total:
                    raise UserError(f"{key}=none keeps all {plan.total:,} ReLUs, not {plan.budget:,}; give budget=all")
            else:
                stage = build(**inputs[key])
                stage.check_selection(config.dataset.holdout)
                stage.check_devices(plan.training.devices)
                check_submodels(plan, stage)
        except TypeError as error:  # keys that the class does not take, set for a stage that was exchanged since
            keys = ", ".join(name for name in OmegaConf.select(config, key) if not name.startswith("_"))
            raise UserError(f"{key} ({build.func.__name__}) does not take all of {keys}: {error}") from error


def leave_submodels(plan: Plan, record: Record, folder: Path) -> None:
    """A folder in `folder` for each further network of the fine-tuning, as complete as that of a run."""
    run_mask, metadata = Mask.from_file(folder / MASK)
    for name, content in plan.finetune.describe().get("submodels", {}).items():
        place, fraction = folder / name, content["fraction"]
        place.mkdir()
        mask = Mask.of(submodel_network(plan, fraction, run_mask).network)
        submodel_record(record, name, mask, fraction, content["accuracy"]).write(place / RECORD_FILE)
        write_text(place / CONFIG, OmegaConf.to_yaml(submodel_config(plan.config, fraction), resolve=True))
        mask.to_file(place / MASK, replace(metadata, asked=mask.count, met=mask.count))
        copy_file(plan.finetune.path / name / WEIGHTS, place / WEIGHTS)


def copy_file(source: Path, target: Path) -> None:
    """A hard link where the file system allows it (weights are never changed in place), else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def make_finetuned(plan: Plan) -> None:
    """The search's weights trained on under its mask, then tested once."""
    if plan.finetune.complete:
        return
    with plan.finetune.lock(say):
        if plan.finetune.complete:
            return
        folder = plan.finetune.work
        stage = train(plan, finetune_stage, folder / CHECKPOINT)
        mask, _ = Mask.from_file(plan.chosen.path / MASK)
        weights, accuracies = tested(plan, stage, submodel_network(plan, 1.0, mask))
        description = {"seconds": stage.seconds, "history": stage.history, "accuracy": accuracies, "submodels": {}}
        for name, fraction in submodels(stage).items():
            part, found = tested(plan, stage, submodel_network(plan, fraction, mask), name)
            (folder / name).mkdir(parents=True, exist_ok=True)
            write_weights(part, folder / name / WEIGHTS)
            description["submodels"][name] = {"fraction": fraction, "accuracy": found}
        publish(plan.finetune, folder, plan.config, description, weights)


def finetune_stage(plan: Plan) -> Stage:
    """With the mask and the weights of the search."""
    chosen = plan.chosen.path
    network = plan.stage_network("finetune")
    to_masked(network.network, Mask.from_file(chosen / MASK)[0])
    load_into(network, read_weights(chosen / WEIGHTS))
    build = instantiate(plan.config.method.finetune, _partial_=True, _convert_="all")
    return build(network=network, teacher=frozen_teacher(plan, "finetune"))
