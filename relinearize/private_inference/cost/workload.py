"""What a network makes two parties do for one image: the counts that every cost model multiplies by its constants."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Self

import numpy as np

from relinearize.private_inference.bundle.bundle import INPUT, Bundle, Node, Shape
from relinearize.private_inference.cost.ciphertexts import ciphertexts

LINEAR = ("conv2d", "linear", "affine")


@dataclass(frozen=True)
class LinearWork:
    """The part that no mask changes.

    layers: convolutions, linear layers, batch norms that no layer took in. inputs, outputs: scalars that go in and come
    out of them. weights: scalars they are multiplied by (of a lone batch norm as many as of its map). pool_comparisons:
    a maximum of k values is k - 1 of them, in pool_steps rounds, log2(k) rounded up.

    Engines compute convolutions as products of matrices: windows are the places of a map that a kernel is laid on,
    patches the scalars of the left matrices, all that is in the windows, weights those of the right ones. The rest are
    Cheetah's, see `ciphertexts`.
    """

    layers: int = 0
    multiplications: int = 0
    inputs: int = 0
    outputs: int = 0
    weights: int = 0
    pool_comparisons: int = 0
    pool_steps: int = 0
    windows: int = 0
    patches: int = 0
    sent_polynomials: int = 0
    returned_polynomials: int = 0
    multiplied_ciphertexts: int = 0
    packed_ciphertexts: int = 0

    @classmethod
    def of_products(cls, inputs: int, rows: int, inner: int, columns: int, groups: int = 1) -> Self:
        """Of a layer that is `groups` products (rows x inner) times (inner x columns), one after the other."""
        found = ciphertexts(rows, inner, columns)
        return cls(
            layers=1,
            multiplications=groups * rows * inner * columns,
            inputs=inputs,
            outputs=groups * rows * columns,
            weights=groups * inner * columns,
            windows=groups * rows,
            patches=groups * rows * inner,
            sent_polynomials=groups * found.sent,
            returned_polynomials=groups * found.returned,
            multiplied_ciphertexts=groups * found.multiplied,
            packed_ciphertexts=groups * found.packed,
        )

    @classmethod
    def of_convolution(cls, inside: int, inputs: int, kernel: int, outside: int, pixels: int, groups: int = 1) -> Self:
        """From `inside` channels, `inputs` scalars in all, to `outside` channels of `pixels` pixels.

        kernel: its pixels. XLA, which SPU's programs come through, lets kernel and map change places where the kernel
        has more pixels. Counted in this way for all layers, it is what is computed, without the padding.
        """
        area = inputs // inside
        if kernel > area:
            found = cls.of_products(inputs, outside // groups * pixels, inside // groups * area, 1, groups)
            return replace(found, windows=groups * pixels)
        return cls.of_products(inputs, pixels, inside // groups * kernel, outside // groups, groups)


@dataclass(frozen=True)
class Workload:
    """relus: kept. live_sites: sites that keep any. gathered: positions of the sites that keep some, but not all.

    linear: None where only the mask is known; predictions are then the ReLUs' share alone.
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
    channels = node.shape[0]
    rows = outputs // channels
    if node.op == "affine":
        return affine_work(channels, rows)
    weight = weights[f"{node.name}.weight"]
    if node.op == "linear":
        return LinearWork.of_products(inputs, rows, weight[0].size, channels)
    groups, kernel = node.attributes["groups"], math.prod(weight.shape[2:])
    return LinearWork.of_convolution(weight.shape[1] * groups, inputs, kernel, channels, rows, groups)


def affine_work(channels: int, pixels: int) -> LinearWork:
    """Of a batch norm that no layer took in: engines multiply by a diagonal matrix, others each scalar by one."""
    scalars = channels * pixels
    work = LinearWork.of_products(scalars, pixels, channels, channels)
    return replace(work, multiplications=scalars, weights=scalars)
