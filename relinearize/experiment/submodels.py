"""The narrower networks that one fine-tuning leaves beside the full one (SENet++): each an ordinary finished run.

A sub-model of fraction s is the backbone with `width` times s, its mask the first channels of the run's. It lies in a
folder of the run's own, with a record, config, mask and weights that `relinearize evaluate` and `report` take as any.
"""

import copy
from typing import Any

from omegaconf import DictConfig

from relinearize.backbones.adapter import PixelInput
from relinearize.errors import UserError
from relinearize.experiment.networks import all_relu_network
from relinearize.experiment.plan import Plan
from relinearize.experiment.records import Record
from relinearize.experiment.store import content_key
from relinearize.methods.ordered import narrowed
from relinearize.methods.stage import Stage
from relinearize.relu.mask import Mask
from relinearize.relu.sites import site_shapes, to_masked


def submodel_fractions(stage: Stage) -> dict[str, float]:
    """Name of the folder -> fraction of the channels, of each network that `stage` leaves beside the full one."""
    return {name: fraction for name, fraction in stage.variant_fractions.items() if fraction != 1}


def submodel_config(config: DictConfig, fraction: float) -> DictConfig:
    """The config whose backbone is the sub-model. UserError where `backbone.width` cannot say so."""
    width = config.backbone.get("width")
    if not isinstance(width, int) or round(width * fraction) != width * fraction:
        raise UserError(
            f"method.finetune.widths: {fraction:g} of backbone.width={width} is no network of this backbone; "
            "give a backbone with a width, and fractions of it that are whole numbers of channels"
        )
    narrow = copy.deepcopy(config)
    narrow.backbone.width = round(width * fraction)
    return narrow


def submodel_network(plan: Plan, fraction: float, mask: Mask) -> PixelInput:
    """The sub-model with its part of `mask`, the run's, and initial weights."""
    network = all_relu_network(submodel_config(plan.config, fraction), plan.source, student=True)
    shapes = site_shapes(network.network)
    to_masked(network.network, Mask({name: kept[: shapes[name][0]] for name, kept in mask.items()}))
    return network


def check_submodels(plan: Plan, stage: Stage) -> None:
    """UserError unless each sub-model of `stage` is the backbone of its width, by names and shapes."""
    for fraction in submodel_fractions(stage).values():
        built = submodel_network(plan, fraction, Mask.full(plan.all_relu.network)).network.state_dict()
        cut = narrowed(plan.new_student(), fraction).network.state_dict()
        if [(name, value.shape) for name, value in built.items()] != [(name, cut[name].shape) for name in cut]:
            raise UserError(
                f"method.finetune.widths: backbone.width times {fraction:g} does not give the first {fraction:g} of "
                "this backbone's channels in every layer; all of them must be proportional to backbone.width"
            )


def submodel_record(record: Record, mask: Mask, fraction: float, accuracies: dict[str, Any]) -> Record:
    """The record of a sub-model with its part of the mask, from that of its run."""
    values = record.model_dump()
    values["key"] = content_key({"run": record.key, "submodel": fraction})
    values["name"] = f"{record.name}-w{fraction:g}"
    values["backbone"]["width"] = round(record.backbone.width * fraction)
    values["config"]["backbone"]["width"] = values["backbone"]["width"]
    values["budget"] |= {"asked": mask.count, "met": mask.count, "total": mask.total}
    for site in values["sites"]:
        kept = mask[site["name"]]
        site |= {"shape": tuple(kept.shape), "total": kept.numel(), "kept": int(kept.sum())}
    values["accuracy"] |= accuracies
    values["submodel"] = {"fraction": fraction, "run": record.key}
    return Record.model_validate(values)
