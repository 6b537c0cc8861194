"""What a network makes two parties do for one image: the counts that every cost model multiplies by its constants."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from relinearize.inference.bundle import INPUT, Bundle, Node, Shape

LINEAR = ("conv2d", "linear", "affine")


@dataclass(frozen=True)
class LinearWork:
    """The part that no mask changes.

    layers: convolutions, linear layers, batch norms that no layer took in. inputs, outputs: scalars that go in and come
    out of them. weights: scalars they are multiplied by (of a lone batch norm as many as of its map). pool_comparisons:
    a maximum of k values is k - 1 of them, in pool_steps rounds, log2(k) rounded up.
    """

    layers: int = 0
    multiplications: int = 0
    inputs: int = 0
    outputs: int = 0
    weights: int = 0
    pool_comparisons: int = 0
    pool_steps: int = 0


@dataclass(frozen=True)
class Workload:
    """relus: kept. live_sites: sites that keep any. gathered: positions of the sites that keep some, but not all.

    linear: None where only the mask is known; what is predicted then is the ReLUs' share alone.
    """

    relus: int
    live_sites: int
    gathered: int
    linear: LinearWork | None = None

    def features(self) -> dict[str, int]:
        """What constants can be per; those of an unknown linear part are missing."""
        found = {"inference": 1, "relus": self.relus, "live_sites": self.live_sites, "gathered": self.gathered}
        return found if self.linear is None else found | asdict(self.linear)


def mask_workload(sites: Iterable[tuple[int, int]]) -> Workload:
    """From (kept, total) of each site, as a record has them."""
    sites = list(sites)
    return Workload(
        relus=sum(kept for kept, _ in sites),
        live_sites=sum(kept > 0 for kept, _ in sites),
        gathered=sum(total for kept, total in sites if 0 < kept < total),
    )


def bundle_workload(bundle: Bundle) -> Workload:
    """Of a whole network; the normalisation of the image is done in the clear and costs nothing."""
    sites = mask_workload((int(mask.sum()), mask.size) for mask in bundle.masks.values())
    return replace(sites, linear=linear_work(bundle.input_shape, bundle.nodes, bundle.weights))


def linear_work(input_shape: Shape, nodes: Sequence[Node], weights: Mapping[str, np.ndarray]) -> LinearWork:
    """Of a bundle's nodes in topological order; weights: `NODE.role` -> tensor."""
    shapes = {INPUT: tuple(input_shape), **{node.name: node.shape for node in nodes}}
    works = [_node_work(node, sum(math.prod(shapes[name]) for name in node.inputs), weights) for node in nodes]
    return LinearWork(*(sum(getattr(work, entry.name) for work in works) for entry in fields(LinearWork)))


def _node_work(node: Node, inputs: int, weights: Mapping[str, np.ndarray]) -> LinearWork:
    outputs = math.prod(node.shape)
    if node.op == "max_pool":
        window = math.prod(node.attributes["kernel"])
        return LinearWork(pool_comparisons=outputs * (window - 1), pool_steps=math.ceil(math.log2(window)))
    if node.op not in LINEAR:
        return LinearWork()
    if node.op == "affine":
        return LinearWork(1, outputs, inputs, outputs, outputs)
    weight = weights[f"{node.name}.weight"]
    return LinearWork(1, outputs * weight[0].size, inputs, outputs, weight.size)
