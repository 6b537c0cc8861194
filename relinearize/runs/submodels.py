"""The networks that one fine-tuning leaves beside the main one, each an ordinary finished run.

SENet++ leaves narrower ones: of fraction s, the backbone with `width` times s, under the first channels of the run's
mask. RLNet leaves one per route: the same mask and weights with the batch norms of that route. Each lies in a folder
of the run's own (`width-0.5`, `route-adversarial`), with a record, config, mask and weights that `relinearize evaluate`
and `report` take as any.
"""

import copy
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from relinearize.backbones.adapter import PixelInput
from relinearize.errors import UserError
from relinearize.files import file_digest, write_text
from relinearize.methods.senet.ordered import first_positions
from relinearize.methods.stage.stage import Stage
from relinearize.records.run import RECORD_FILE, Record
from relinearize.records.store import CONFIG, MASK, WEIGHTS, content_key
from relinearize.relu.mask import Mask, MaskMetadata
from relinearize.relu.sites import to_masked
from relinearize.runs.build import all_relu_network
from relinearize.runs.describe import cost_values
from relinearize.runs.plan import Plan
from relinearize.runs.request import Request
from relinearize.targets import build, target

ROUTE = "route-"  # what stands before a route in the name of its folder


def submodels(stage: Stage) -> dict[str, float]:
    """Name of the folder -> fraction of the channels, of each network that `stage` leaves beside the main one."""
    return {name: fraction for name, fraction in stage.variant_fractions.items() if name}


def submodel_config(config: DictConfig, fraction: float) -> DictConfig:
    """The config whose backbone is the sub-model. UserError where `backbone.width` cannot say so."""
    if fraction == 1:
        return config
    width = config.backbone.get("width")
    if not isinstance(width, int) or round(width * fraction) != width * fraction:
        raise UserError(
            f"{fraction:g} of backbone.width={width} is no network of this backbone; "
            "give a backbone with a width, and fractions of it that are integer numbers of channels"
        )
    narrow = copy.deepcopy(config)
    narrow.backbone.width = round(width * fraction)
    if narrow.backbone.get("weights") is not None:
        narrow.backbone.weights = None  # of the full width, from which the sub-model's are cut
    return narrow


def narrower_network(request: Request, fraction: float) -> PixelInput:
    """The student of `fraction` of the channels, with all ReLUs and initial weights.

    UserError unless this is the backbone of a smaller width, all layers of which have that fraction of the channels.
    """
    if request.reshaped:
        raise UserError("this search gives the student a width itself; give widths=[1.0]")
    config, same = submodel_config(request.config, fraction), (request.source.channels, request.source.classes)
    narrow = all_relu_network(config, request.source, student=True)
    part, whole = (network.network.state_dict() for network in (narrow, request.all_relu))
    ratio = Fraction(config.backbone.width, request.config.backbone.width)
    for name in whole | part:
        few, many = (weights[name].shape if name in weights else (0,) for weights in (part, whole))
        channels = zip(few[:2], many[:2], strict=False)  # outputs and inputs; behind them come the sides of kernels
        proportional = all(one == other * ratio or one == other in same for one, other in channels)
        if len(few) != len(many) or few[2:] != many[2:] or not proportional:
            raise UserError(
                f"backbone.width times {fraction:g} does not give the first {fraction:g} of this backbone's channels "
                f"in every layer (not of {name}); all of them must be proportional to backbone.width"
            )
    return narrow


def narrower_input(request: Request) -> dict[str, Any]:
    """What a fine-tuning of several widths is given beside the network and its teacher."""
    narrows = getattr(target(request.config.method.finetune), "narrows", False)
    return {"narrower": partial(narrower_network, request)} if narrows else {}


def submodel_network(request: Request, fraction: float, mask: Mask) -> PixelInput:
    """The network of `fraction` of the channels, without routes, under its part of `mask`; initial weights."""
    network = request.new_student() if fraction == 1 else narrower_network(request, fraction)
    to_masked(network.network, first_positions(mask, network))
    return network


def run_mask_of(plan: Plan) -> tuple[Mask, MaskMetadata]:
    """The mask of the run's folder: that which the fine-tuning starts from, with what stands at removed positions."""
    mask, metadata = plan.results.mask(plan.chosen)
    return mask, replace(metadata, replacement=plan.request.replacement_name)


def leave_submodels(plan: Plan, record: Record, folder: Path) -> None:
    """A folder in `folder` for each further network of the fine-tuning, as complete as that of a run."""
    for name, content in plan.finetune.describe().get("submodels", {}).items():
        run_mask, metadata = run_mask_of(plan)
        place, fraction = folder / name, content["fraction"]
        place.mkdir()
        mask = Mask.of(submodel_network(plan.request, fraction, run_mask).network)
        config = submodel_config(plan.request.config, fraction)
        write_text(place / CONFIG, OmegaConf.to_yaml(config, resolve=True))
        mask.to_file(place / MASK, replace(metadata, met=mask.count))
        copy_file(plan.finetune.file(f"{name}/{WEIGHTS}"), place / WEIGHTS)
        leave_record(submodel_record(record, name, mask, fraction, content["accuracy"]), place)


def leave_record(record: Record, folder: Path) -> None:
    """Write the record of the run in `folder`, with the sha256 of the files beside it."""
    digests = {name: file_digest(folder / name) for name in (CONFIG, MASK, WEIGHTS)}
    record.model_copy(update={"files": digests}).write(folder / RECORD_FILE)


def copy_file(source: Path, target: Path) -> None:
    """A hard link where the file system allows it (weights are never changed in place), else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def submodel_record(record: Record, name: str, mask: Mask, fraction: float, accuracies: dict[str, Any]) -> Record:
    """The record of the sub-model in folder `name`, under its part of the mask, from that of its run."""
    values = record.model_dump()
    values["key"] = content_key({"run": record.key, "submodel": name})
    values["submodel"] = {"fraction": fraction, "run": record.key}
    if name.startswith(ROUTE):
        values["route"] = name.removeprefix(ROUTE)
    values["name"] = f"{record.name}-{values['route'] if name.startswith(ROUTE) else f'w{fraction:g}'}"
    if fraction < 1:
        values["backbone"]["width"] = round(record.backbone.width * fraction)
        values["config"]["backbone"]["width"] = values["backbone"]["width"]
        values["budget"] |= {"met": mask.count, "total": mask.total}
    for site in values["sites"]:
        kept = mask[site["name"]]
        site |= {"shape": tuple(kept.shape), "total": kept.numel(), "kept": int(kept.sum())}
    config = OmegaConf.create(values["config"])
    values["unit"] = mask.unit
    values["cost"] = cost_values(config, build(config.dataset.source), mask, record.replacement)
    values["accuracy"] |= accuracies
    if fraction < 1 or name.startswith(ROUTE):  # the teacher is of full width, and was tested on its clean route
        values["accuracy"] |= dict.fromkeys(("teacher_test", "teacher_predictions"))
    return Record.model_validate(values)
