"""The networks that one fine-tuning leaves beside the main one, each an ordinary finished run.

SENet++ leaves narrower ones: of fraction s, the backbone with `width` times s, under the first channels of the run's
mask. RLNet leaves one per route: the same mask and weights with the batch norms of that route. Each lies in a folder
of the run's own (`width-0.5`, `route-adversarial`), with a record, config, mask and weights that `relinearize evaluate`
and `report` take as any.
"""

import copy
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from relinearize.backbones.adapter import PixelInput
from relinearize.errors import UserError
from relinearize.methods.senet.ordered import narrowed
from relinearize.methods.stage import Stage
from relinearize.records.run import Record
from relinearize.records.store import content_key
from relinearize.relu.mask import Mask
from relinearize.relu.sites import site_shapes, to_masked
from relinearize.runs.build import all_relu_network
from relinearize.runs.plan import Plan
from relinearize.runs.predicted_cost import cost_values

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
            f"method.finetune.widths: {fraction:g} of backbone.width={width} is no network of this backbone; "
            "give a backbone with a width, and fractions of it that are whole numbers of channels"
        )
    narrow = copy.deepcopy(config)
    narrow.backbone.width = round(width * fraction)
    return narrow


def submodel_network(plan: Plan, fraction: float, mask: Mask) -> PixelInput:
    """The network of `fraction` of the channels, without routes, under its part of `mask`; initial weights."""
    network = all_relu_network(submodel_config(plan.config, fraction), plan.source, student=True)
    shapes = site_shapes(network.network)
    to_masked(network.network, Mask({name: kept[: shapes[name][0]] for name, kept in mask.items()}))
    return network


def check_submodels(plan: Plan, stage: Stage) -> None:
    """UserError unless each sub-model of `stage` is the backbone of its width, by names and shapes."""
    for fraction in set(submodels(stage).values()) - {1.0}:
        built = submodel_network(plan, fraction, Mask.full(plan.all_relu.network)).network.state_dict()
        cut = narrowed(plan.new_student(), fraction).network.state_dict()
        if [(name, value.shape) for name, value in built.items()] != [(name, cut[name].shape) for name in cut]:
            raise UserError(
                f"method.finetune.widths: backbone.width times {fraction:g} does not give the first {fraction:g} of "
                "this backbone's channels in every layer; all of them must be proportional to backbone.width"
            )


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
        values["budget"] |= {"asked": mask.count, "met": mask.count, "total": mask.total}
    for site in values["sites"]:
        kept = mask[site["name"]]
        site |= {"shape": tuple(kept.shape), "total": kept.numel(), "kept": int(kept.sum())}
    config = OmegaConf.create(values["config"])
    sites = [(site["kept"], site["total"]) for site in values["sites"]]
    values["cost"] = cost_values(config, instantiate(config.dataset.source), sites)
    values["accuracy"] |= accuracies
    if fraction < 1:
        values["accuracy"]["teacher_test"] = None  # the teacher is of full width
    return Record.model_validate(values)
