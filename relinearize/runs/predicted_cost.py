"""What a record says of private inference: the counts of its network and what each preset predicts from them."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from omegaconf import DictConfig

from relinearize.backbones.adapter import inner_network
from relinearize.private_inference.bundle.tracing import traced_graph
from relinearize.private_inference.cost.backbones import backbone_work
from relinearize.private_inference.cost.prediction import PhaseCost, predict
from relinearize.private_inference.cost.presets import recorded_presets
from relinearize.private_inference.cost.workload import LinearWork, linear_work, mask_workload
from relinearize.records.run import OWN_BUILDER
from relinearize.runs.build import all_relu_network

logger = logging.getLogger(__name__)


def cost_values(config: DictConfig, source: Any, sites: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """The values of a CostRecord for `config.backbone` on images like those of `source`.

    sites: (kept, total) of each.
    """
    workload = replace(mask_workload(sites), linear=network_work(config, source))
    predictions = [predict(preset, workload) for preset in recorded_presets()]
    return {
        **asdict(workload),
        "predicted": {
            one.preset.name: {
                "online": _phase(one.online, one.preset.network is not None),
                "offline": one.offline and _phase(one.offline, one.preset.network is not None),
            }
            for one in predictions
            if one.complete
        },
    }


def network_work(config: DictConfig, source: Any) -> LinearWork | None:
    """The linear part of the network of `config`: from its name, or counted in it. None where it cannot be traced."""
    backbone = config.backbone
    if backbone["_target_"] == OWN_BUILDER:
        return backbone_work(
            backbone.name,
            width=backbone.get("width"),
            classes=source.classes,
            image_size=source.image_size,
            channels=source.channels,
        )
    input_size = (source.channels, source.image_size, source.image_size)
    try:
        network = inner_network(all_relu_network(config, source, student=True).eval())
        nodes, weights, _ = traced_graph(network, input_size)
        return linear_work(input_size, nodes, weights)
    except Exception as error:  # a user's network, after its training: whatever is wrong must not cost the run
        logger.warning("the record has no cost of the linear layers: %s", str(error) or type(error).__name__)
        return None


def _phase(cost: PhaseCost, on_network: bool) -> dict[str, Any]:
    return {
        "seconds": round(cost.seconds, 6),
        "bytes": round(cost.bytes) if on_network else None,
        "messages": round(cost.messages) if on_network else None,
    }
