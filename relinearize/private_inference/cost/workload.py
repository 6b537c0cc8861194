"""What a network makes two parties do for one image or a batch: the counts that cost models multiply by constants."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any, Self

import numpy as np

from relinearize.private_inference.bundle.bundle import INPUT, Bundle, Node, Shape
from relinearize.private_inference.bundle.fixed_point import mean_factors
from relinearize.private_inference.bundle.operations import SITES
from relinearize.private_inference.bundle.tournament import MaxPool
from relinearize.relu.replacement import IDENTITY

LINEAR = ("conv2d", "linear", "affine")
POOLS = ("max_pool", "avg_pool", "global_avg_pool")
REST = "rest"
SCALARS = 8192  # in a ciphertext of Cheetah's 64-bit ring
# Counts of what stands at removed positions.
REPLACEMENT_COUNTS = ("affine", "affine_sites", "quadratic", "quadratic_sites", "quadratic_ciphertexts")
# What SPU's choice of blocks takes to be worth how much.
SENT, PACKED, MULTIPLIED = 1000, 1, 0.1


@dataclass(frozen=True)
class LinearWork:
    """The part that no mask changes, of all images of an inference together.

    layers: convolutions, linear layers, batch norms that no layer took in. products: the same, but of a grouped
    convolution one for each group, as SPU computes it. inputs, outputs: scalars that go in and come out of them, and
    the means of average pools, as often as SPU rounds them. weights: scalars they are multiplied by (of a lone batch
    norm a diagonal matrix). pool_comparisons: of max-pools, as engines make them (`bundle.tournament`), in
    pool_steps batches that wait for each other. means: roundings of average pools that wait for each other, one for
    each pool and two of large windows. parameters: scalars of the layers' weights, which CrypTen opens as they are,
    with the inputs.

    Engines compute convolutions as products of matrices: windows are the places of a map that a kernel is laid on,
    patches the scalars of the left matrices, all that is in the windows, weights those of the right ones.

    The rest are Cheetah's. sent_polynomials: one for each encrypted block, as the other half of a ciphertext is a seed.
    returned_polynomials: two for each result, the first of an unpacked one nearly empty and not counted.
    multiplied_ciphertexts: products of a ciphertext with a plaintext block. result_ciphertexts: their sums along the
    inner side, each transformed back once. packed_ciphertexts: places that results are packed from, a power of two to
    each ciphertext they end in; an empty one takes as long as a full one. 0 if they are not packed.
    """

    layers: int = 0
    products: int = 0
    multiplications: int = 0
    inputs: int = 0
    outputs: int = 0
    weights: int = 0
    parameters: int = 0
    pool_comparisons: int = 0
    pool_steps: int = 0
    means: int = 0
    windows: int = 0
    patches: int = 0
    sent_polynomials: int = 0
    returned_polynomials: int = 0
    multiplied_ciphertexts: int = 0
    result_ciphertexts: int = 0
    packed_ciphertexts: int = 0

    @classmethod
    def total(cls, works: Iterable[Self]) -> Self:
        """Of several layers together."""
        works = list(works)
        return cls(*(sum(getattr(work, entry.name) for work in works) for entry in fields(cls)))

    @classmethod
    def of_products(cls, inputs: int, rows: int, inner: int, columns: int, groups: int = 1) -> Self:
        """Of a layer that is `groups` products (rows x inner) times (inner x columns), one after the other.

        A batch has more rows and inputs; what the layer is multiplied by stays.
        """
        counts = {
            "multiplications": rows * inner * columns,
            "outputs": rows * columns,
            "weights": inner * columns,
            "parameters": inner * columns,
            "windows": rows,
            "patches": rows * inner,
            **ciphertexts(rows, inner, columns),
        }
        return cls(layers=1, products=groups, inputs=inputs, **{name: groups * count for name, count in counts.items()})

    @classmethod
    def of_convolution(
        cls, inside: int, inputs: int, kernel: int, outside: int, pixels: int, groups: int = 1, batch: int = 1
    ) -> Self:
        """From `inside` channels, `inputs` scalars in all, to `outside` channels of `pixels` pixels, of each image.

        kernel: its pixels. XLA, which SPU's programs come through, lets kernel and map change places where the kernel
        has more pixels. Counted in this way for all layers, it is what is computed, without the padding.
        """
        area = inputs // inside
        if kernel > area:
            found = cls.of_products(batch * inputs, outside // groups * pixels, inside // groups * area, batch, groups)
            return replace(found, windows=groups * pixels, parameters=inside // groups * kernel * outside)
        return cls.of_products(batch * inputs, batch * pixels, inside // groups * kernel, outside // groups, groups)


@dataclass(frozen=True)
class Workload:
    """relus: kept. live_sites: sites that keep any. gathered: positions of the sites that keep some, but not all.
    inference: 1, but 0 of a part of a network: what is paid once for each image, the logits' way among it.

    linear: None where only the mask is known; predictions are then the ReLUs' share alone.

    affine, quadratic: removed positions with such a polynomial instead of the identity, and the sites with any. The
    coefficients are public, so an affine one is no product of secrets, and a quadratic is one. A cubic is two products,
    one after the other, and counts as two quadratics (of whose four roundings it needs three). quadratic_ciphertexts:
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
    inference: int = 1

    def features(self) -> dict[str, int]:
        """What constants can be per; those of an unknown linear part are missing."""
        found = asdict(self)
        linear = found.pop("linear")
        return found | (linear or {})


def mask_workload(sites: Iterable[tuple[int, int]], replacement: str = IDENTITY, batch: int = 1) -> Workload:
    """From (kept, total) of each site and what stands at removed positions, as a record has them.

    batch: images of one inference. Each has its ReLUs; their sites, which cost messages, are the same.
    """
    sites = [(batch * kept, batch * total) for kept, total in sites]
    removed = [total - kept for kept, total in sites if kept < total]
    affine = removed if replacement == "affine" else []
    products = {"quadratic": 1, "cubic": 2}.get(replacement, 0)
    return Workload(
        relus=sum(kept for kept, _ in sites),
        live_sites=sum(kept > 0 for kept, _ in sites),
        gathered=sum(total for kept, total in sites if 0 < kept < total),
        affine=sum(affine),
        affine_sites=len(affine),
        quadratic=products * sum(removed),
        quadratic_sites=products * len(removed),
        quadratic_ciphertexts=products * sum(2 * math.ceil(count / SCALARS) for count in removed),
    )


@dataclass(frozen=True)
class Layer:
    """A site, pool or linear layer of a bundle, by the name and operation of its node; REST: whatever is none of them.

    work: of all images of an inference. The counts are of one: ReLUs kept, of positions, comparisons of a max-pool.
    """

    name: str
    op: str
    work: Workload
    relus: int = 0
    positions: int = 0
    comparisons: int = 0


def bundle_layers(bundle: Bundle, batch: int = 1) -> list[Layer]:
    """Of a whole network; the normalisation of the images is done in the clear and costs nothing."""
    layers, pools = [], bundle.pools
    linear = _linear_layers(bundle.input_shape, bundle.nodes, bundle.weights, batch)
    for node, work in zip(bundle.nodes, linear, strict=True):
        if node.op in SITES:
            mask = bundle.masks[node.name]
            kept = int(mask.sum())
            site = mask_workload([(kept, mask.size)], bundle.replacement, batch)
            layers.append(Layer(node.name, node.op, replace(site, linear=work, inference=0), kept, mask.size))
        elif node.op in LINEAR + POOLS:
            comparisons = pools[node.name].comparisons if node.name in pools else 0
            whole = Workload(0, 0, 0, work, inference=0)
            layers.append(Layer(node.name, node.op, whole, comparisons=comparisons))
    return [*layers, Layer(REST, "", Workload(0, 0, 0, LinearWork()))]


def bundle_workload(bundle: Bundle, batch: int = 1) -> Workload:
    """Of all layers together."""
    works = [layer.work for layer in bundle_layers(bundle, batch)]
    named = [entry.name for entry in fields(Workload) if entry.name != "linear"]
    counts = {name: sum(getattr(work, name) for work in works) for name in named}
    return Workload(**counts, linear=LinearWork.total(work.linear for work in works))


def _linear_layers(
    input_shape: Shape, nodes: Sequence[Node], weights: Mapping[str, np.ndarray], batch: int
) -> list[LinearWork]:
    """Of each node, in topological order; weights: `NODE.role` -> tensor."""
    shapes = {INPUT: tuple(input_shape), **{node.name: node.shape for node in nodes}}
    return [_node_work(node, [shapes[name] for name in node.inputs], weights, batch) for node in nodes]


def _node_work(node: Node, inputs: Sequence[Shape], weights: Mapping[str, np.ndarray], batch: int) -> LinearWork:
    """inputs: shapes, without batch."""
    outputs = math.prod(node.shape)
    if node.op == "max_pool":
        return max_pool_work(inputs[0], node.attributes, batch)
    if node.op in ("avg_pool", "global_avg_pool"):
        window = node.attributes["kernel"] if node.op == "avg_pool" else inputs[0][1:]
        return mean_work(outputs, math.prod(window), batch)
    if node.op not in LINEAR:
        return LinearWork()
    channels = node.shape[0]
    rows = outputs // channels
    if node.op == "affine":
        return affine_work(channels, rows, batch)
    weight, scalars = weights[f"{node.name}.weight"], math.prod(inputs[0])
    if node.op == "linear":
        return LinearWork.of_products(batch * scalars, batch * rows, weight[0].size, channels)
    groups, kernel = node.attributes["groups"], math.prod(weight.shape[2:])
    return LinearWork.of_convolution(weight.shape[1] * groups, scalars, kernel, channels, rows, groups, batch)


def max_pool_work(shape: Shape, window: Mapping[str, Any], batch: int = 1) -> LinearWork:
    """Of a max-pool on maps of that shape; window: kernel, stride and padding, pairs."""
    pool = MaxPool.of(shape, window)
    return LinearWork(pool_comparisons=batch * pool.comparisons, pool_steps=pool.rounds)


def mean_work(outputs: int, pixels: int, batch: int = 1) -> LinearWork:
    """Of an average pool over windows of so many pixels."""
    roundings = len(mean_factors(pixels))
    return LinearWork(outputs=roundings * batch * outputs, means=roundings)


def affine_work(channels: int, pixels: int, batch: int = 1) -> LinearWork:
    """Of a batch norm that no layer took in: engines multiply by a diagonal matrix, others each scalar by one."""
    scalars = channels * pixels
    work = LinearWork.of_products(batch * scalars, batch * pixels, channels, channels)
    return replace(work, multiplications=batch * scalars, parameters=channels)


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
        "result_ciphertexts": results,
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
