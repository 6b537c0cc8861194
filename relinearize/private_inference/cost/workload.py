"""What a network makes two parties do for one image: the counts that every cost model multiplies by its constants."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Self

import numpy as np

from relinearize.private_inference.bundle.bundle import INPUT, Bundle, Node, Shape
from relinearize.relu.replacement import IDENTITY

LINEAR = ("conv2d", "linear", "affine")
SCALARS = 8192  # in a ciphertext of Cheetah's 64-bit ring
# Counts of what stands at removed positions.
REPLACEMENT_COUNTS = ("affine", "affine_sites", "quadratic", "quadratic_sites", "quadratic_ciphertexts")
# What SPU's choice of blocks takes to be worth how much.
SENT, PACKED, MULTIPLIED = 1000, 1, 0.1


@dataclass(frozen=True)
class LinearWork:
    """The part that no mask changes.

    layers: convolutions, linear layers, batch norms that no layer took in. inputs, outputs: scalars that go in and come
    out of them. weights: scalars they are multiplied by (of a lone batch norm as many as of its map). pool_comparisons:
    a maximum of k values is k - 1 of them, in pool_steps rounds, log2(k) rounded up. parameters: scalars of the layers'
    weights, which CrypTen opens as they are, with the inputs.

    Engines compute convolutions as products of matrices: windows are the places of a map that a kernel is laid on,
    patches the scalars of the left matrices, all that is in the windows, weights those of the right ones.

    The rest are Cheetah's. sent_polynomials: one for each encrypted block, as the other half of a ciphertext is a seed.
    returned_polynomials: two for each result, the first of an unpacked one nearly empty and not counted.
    multiplied_ciphertexts: products of a ciphertext with a plaintext block. packed_ciphertexts: places that results are
    packed from, a power of two to each ciphertext they end in; an empty one takes as long as a full one. 0 if they are
    not packed.
    """

    layers: int = 0
    multiplications: int = 0
    inputs: int = 0
    outputs: int = 0
    weights: int = 0
    parameters: int = 0
    pool_comparisons: int = 0
    pool_steps: int = 0
    windows: int = 0
    patches: int = 0
    sent_polynomials: int = 0
    returned_polynomials: int = 0
    multiplied_ciphertexts: int = 0
    packed_ciphertexts: int = 0

    @classmethod
    def total(cls, works: Iterable[Self]) -> Self:
        """Of several layers together."""
        works = list(works)
        return cls(*(sum(getattr(work, entry.name) for work in works) for entry in fields(cls)))

    @classmethod
    def of_products(cls, inputs: int, rows: int, inner: int, columns: int, groups: int = 1) -> Self:
        """Of a layer that is `groups` products (rows x inner) times (inner x columns), one after the other."""
        counts = {
            "multiplications": rows * inner * columns,
            "outputs": rows * columns,
            "weights": inner * columns,
            "parameters": inner * columns,
            "windows": rows,
            "patches": rows * inner,
            **ciphertexts(rows, inner, columns),
        }
        return cls(layers=1, inputs=inputs, **{name: groups * count for name, count in counts.items()})

    @classmethod
    def of_convolution(cls, inside: int, inputs: int, kernel: int, outside: int, pixels: int, groups: int = 1) -> Self:
        """From `inside` channels, `inputs` scalars in all, to `outside` channels of `pixels` pixels.

        kernel: its pixels. XLA, which SPU's programs come through, lets kernel and map change places where the kernel
        has more pixels. Counted in this way for all layers, it is what is computed, without the padding.
        """
        area = inputs // inside
        if kernel > area:
            found = cls.of_products(inputs, outside // groups * pixels, inside // groups * area, 1, groups)
            return replace(found, windows=groups * pixels, parameters=inside // groups * kernel * outside)
        return cls.of_products(inputs, pixels, inside // groups * kernel, outside // groups, groups)


@dataclass(frozen=True)
class Workload:
    """relus: kept. live_sites: sites that keep any. gathered: positions of the sites that keep some, but not all.

    linear: None where only the mask is known; predictions are then the ReLUs' share alone.

    affine, quadratic: removed positions with such a polynomial instead of the identity, and the sites with any. The
    coefficients are public, so an affine one is no product of secrets, and a quadratic is one. quadratic_ciphertexts:
    of Cheetah, for the products of the shares that different parties hold, two for each site's 8,192.
    """

    relus: int
    live_sites: int
    gathered: int
    linear: LinearWork | None = None
    affine: int = 0
    affine_sites: int = 0
    quadratic: int = 0
    quadratic_sites: int = 0
    quadratic_ciphertexts: int = 0

    def features(self) -> dict[str, int]:
        """What constants can be per; those of an unknown linear part are missing."""
        found = {"inference": 1} | asdict(self)
        linear = found.pop("linear")
        return found | (linear or {})


def mask_workload(sites: Iterable[tuple[int, int]], replacement: str = IDENTITY) -> Workload:
    """From (kept, total) of each site and what stands at removed positions, as a record has them."""
    sites = list(sites)
    removed = [total - kept for kept, total in sites if kept < total]
    replaced = {}
    if replacement in ("affine", "quadratic"):
        replaced = {replacement: sum(removed), f"{replacement}_sites": len(removed)}
    if replacement == "quadratic":
        replaced["quadratic_ciphertexts"] = sum(2 * math.ceil(count / SCALARS) for count in removed)
    return Workload(
        relus=sum(kept for kept, _ in sites),
        live_sites=sum(kept > 0 for kept, _ in sites),
        gathered=sum(total for kept, total in sites if 0 < kept < total),
        **replaced,
    )


def bundle_workload(bundle: Bundle) -> Workload:
    """Of a whole network; the normalisation of the image is done in the clear and costs nothing."""
    sites = mask_workload(((int(mask.sum()), mask.size) for mask in bundle.masks.values()), bundle.replacement)
    return replace(sites, linear=linear_work(bundle.input_shape, bundle.nodes, bundle.weights))


def linear_work(input_shape: Shape, nodes: Sequence[Node], weights: Mapping[str, np.ndarray]) -> LinearWork:
    """Of a bundle's nodes in topological order; weights: `NODE.role` -> tensor."""
    shapes = {INPUT: tuple(input_shape), **{node.name: node.shape for node in nodes}}
    inputs = [sum(math.prod(shapes[name]) for name in node.inputs) for node in nodes]
    return LinearWork.total(_node_work(node, count, weights) for node, count in zip(nodes, inputs, strict=True))


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
    return replace(work, multiplications=scalars, weights=scalars, parameters=channels)


# ---- Cheetah's ciphertexts -------------------------------------------------------------------------------------------


@cache
def ciphertexts(rows: int, inner: int, columns: int) -> dict[str, int]:
    """The counts of LinearWork that are Cheetah's, of a product (rows x inner) times (inner x columns) in SPU 0.9.5.

    A ciphertext holds 8,192 scalars however few are needed, so that bytes and time of a small layer follow from their
    number and not from its scalars. One party encrypts its matrix, block by block, and sends it; the other multiplies
    by its own and sends the results back. Results that lie scattered are packed into fewer ciphertexts before, which is
    most of the work.
    """
    size, blocks = _blocks(rows, inner, columns, packing=True)
    packing = blocks[0] * blocks[2] > 1  # a single result needs none
    if not packing:
        size, blocks = _blocks(rows, inner, columns, packing=False)
    results = blocks[0] * blocks[2]
    return {
        "sent_polynomials": min(blocks[0], blocks[2]) * blocks[1],
        "returned_polynomials": 2 * math.ceil(results / size[1]) if packing else results,
        "multiplied_ciphertexts": math.prod(blocks),
        "packed_ciphertexts": size[1] * math.ceil(results / size[1]) if packing else 0,
    }


def _blocks(rows: int, inner: int, columns: int, packing: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(size of the blocks, their numbers) along rows, inner, columns: the cheapest, of equally cheap ones the last."""
    least, found = math.inf, None
    for height in range(1, min(SCALARS, rows) + 1):
        depth = 1
        while depth <= inner and height * depth <= SCALARS:
            width = min(columns, SCALARS // (height * depth))
            across, along, down = math.ceil(rows / height), math.ceil(inner / depth), math.ceil(columns / width)
            price = SENT * (min(across, down) * along + math.ceil(across * down / depth))
            price += MULTIPLIED * across * along * down
            if packing:
                price += PACKED * math.ceil(rows * columns / SCALARS) * depth
            if price <= least:
                least, found = price, ((height, depth, width), (across, along, down))
            depth = depth * 2 if packing else depth + 1
    return found
