"""Make a graph smaller without changing what it computes: what a linear layer can carry goes into it. NumPy only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from relinearize.private_inference.bundle.bundle import Node

Weights = dict[str, np.ndarray]


def folded(nodes: Sequence[Node], weights: Mapping[str, np.ndarray]) -> tuple[list[Node], Weights]:
    """The same function with fewer nodes; weights in the dtype they have.

    An `affine` goes into the convolution, linear layer or affine before it, if that feeds nothing else. A pooling over
    one pixel that only skips pixels becomes the stride of the 1x1 convolutions after it. Batch norms behind an addition
    or a concatenation stay.
    """
    nodes, weights = list(nodes), dict(weights)
    for fold in (_affine_into_layer, _subsampling_into_convolutions):
        while (smaller := _first(fold, nodes, weights)) is not None:
            nodes = smaller
    return nodes, weights


def _first(
    fold: Callable[[Node, list[Node], Weights], list[Node] | None], nodes: list[Node], weights: Weights
) -> list[Node] | None:
    return next((smaller for node in nodes if (smaller := fold(node, nodes, weights)) is not None), None)


def _affine_into_layer(node: Node, nodes: list[Node], weights: Weights) -> list[Node] | None:
    before = next((other for other in nodes if other.name == node.inputs[0]), None)
    if node.op != "affine" or before is None or before.op not in ("conv2d", "linear", "affine"):
        return None
    if len(_users(before, nodes)) > 1:
        return None
    scale, shift = (weights.pop(f"{node.name}.{role}") for role in ("scale", "shift"))
    factor, offset = ("scale", "shift") if before.op == "affine" else ("weight", "bias")
    values = weights[f"{before.name}.{factor}"]
    weights[f"{before.name}.{factor}"] = values * scale.reshape(-1, *[1] * (values.ndim - 1))
    weights[f"{before.name}.{offset}"] = weights[f"{before.name}.{offset}"] * scale + shift
    return _without(node, nodes)


def _subsampling_into_convolutions(node: Node, nodes: list[Node], weights: Weights) -> list[Node] | None:
    if node.op != "avg_pool" or node.attributes["kernel"] != [1, 1] or any(node.attributes["padding"]):
        return None
    users = _users(node, nodes)
    if not users or not all(
        user.op == "conv2d"
        and weights[f"{user.name}.weight"].shape[2:] == (1, 1)
        and user.attributes["stride"] == [1, 1]
        and user.attributes["padding"] == [0, 0]
        for user in users
    ):
        return None
    strided = {user.name: {**user.attributes, "stride": node.attributes["stride"]} for user in users}
    nodes = [replace(one, attributes=strided.get(one.name, one.attributes)) for one in nodes]
    return _without(node, nodes)


def _users(node: Node, nodes: Sequence[Node]) -> list[Node]:
    return [other for other in nodes if node.name in other.inputs]


def _without(node: Node, nodes: Sequence[Node]) -> list[Node]:
    """The others; who read `node` reads what it read."""
    return [
        replace(other, inputs=tuple(node.inputs[0] if name == node.name else name for name in other.inputs))
        for other in nodes
        if other.name != node.name
    ]
