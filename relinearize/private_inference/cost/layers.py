"""What each site, pool and linear layer of a network costs."""

from collections.abc import Sequence

from relinearize.private_inference.cost.presets import Preset, predict
from relinearize.private_inference.cost.workload import Layer
from relinearize.records.inference import LayerCost


def layer_cost(layer: Layer, seconds: float, size: float, messages: float) -> LayerCost:
    """With the counts of `layer`; size: bytes."""
    counts = (layer.relus, layer.positions, layer.comparisons)
    return LayerCost(layer.name, layer.op, *counts, seconds, size, messages)


def predicted_layers(preset: Preset, layers: Sequence[Layer]) -> tuple[LayerCost, ...]:
    """What one inference takes online, layer by layer; together what `predict` says of the whole network."""
    costs = [predict(preset, layer.work).online for layer in layers]
    return tuple(
        layer_cost(layer, cost.seconds, cost.bytes, cost.messages) for layer, cost in zip(layers, costs, strict=True)
    )
