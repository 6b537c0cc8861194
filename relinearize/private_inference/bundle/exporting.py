"""A torch network as a bundle: one route, masks applied, batch norms folded, checked against torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import PixelInput, inner_network
from relinearize.backbones.routes import export_route, routes_of
from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import (
    CHECKED,
    INPUT,
    TOLERANCE,
    About,
    Bundle,
    Node,
    Reference,
    worst_difference,
    write_bundle,
)
from relinearize.private_inference.bundle.tracing import traced_graph
from relinearize.relu.copies import copied, with_weights
from relinearize.relu.mask import Mask
from relinearize.relu.sites import Site, linearize, to_masked

RANDOM_IMAGES = 8  # for a reference where nobody gives images
NOISE = 0.1  # of these around the mean pixel, in standard deviations: polynomials overflow far from what they know


def export(network: nn.Module, folder: Path | str, **settings: Any) -> Bundle:
    """Write `folder` (see `bundle`) for `network`, which stays as it is; `settings`: those of `as_bundle`.

    Returns its content. UserError where `as_bundle` raises it, and where `folder` exists.
    """
    bundle = as_bundle(network, **settings)
    write_bundle(bundle, folder)
    return bundle


def as_bundle(
    network: nn.Module,
    input_size: Sequence[int],
    mask: Mapping[str, Tensor] | None = None,
    route: str | None = None,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    about: About | None = None,
) -> Bundle:
    """`network` as a bundle in memory, checked against torch.

    network: linearized, with the masks it carries unless `mask` is given; or any network, which is linearized here,
    with all ReLUs kept unless `mask` is given. input_size: (C, H, W). route: which batch norms, needed where the
    network has several. images: N x C x H x W, what the reference holds (if None, noise around the mean pixel,
    or uniform where the network knows none), with their labels.

    UserError where the network cannot be a bundle, or the bundle's logits are not the network's.
    """
    network = _prepared(network, tuple(input_size), mask, route)
    bundle = _unchecked(network, tuple(input_size))
    images = _stand_ins(network, input_size) if images is None else images.detach().cpu().float()
    with torch.no_grad():
        # `squeeze()` takes the batch off a single image, too
        logits = torch.cat([network(part).reshape(len(part), -1) for part in images.split(50)])
    reference = Reference(
        images.numpy(), logits.numpy(), None if labels is None else labels.cpu().to(torch.int64).numpy()
    )
    bundle = replace(bundle, reference=reference, about=about or About())
    bundle.check()
    polynomials = f"the polynomials at removed positions ({bundle.replacement})" if bundle.coefficients else ""
    if not logits[:CHECKED].isfinite().all():
        cause = f": {polynomials} can overflow" if polynomials else ""
        raise UserError(f"the network's logits are not finite for some of the first {CHECKED} images{cause}")
    difference = worst_difference(bundle)
    if not difference < TOLERANCE:
        cause = f", or do {polynomials} make rounding larger?" if polynomials else "?"
        raise UserError(
            f"the bundle's logits differ from torch's by {difference:.1e} of the largest; at most {TOLERANCE:.0e} are "
            f"rounding: does forward change a tensor in place that is read again{cause}"
        )
    return bundle


def counted_bundle(network: nn.Module, input_size: Sequence[int]) -> Bundle:
    """`as_bundle` without reference and check, for counts alone: nothing is computed, so nothing can overflow."""
    return _unchecked(_prepared(network, tuple(input_size), None, None), tuple(input_size))


def _unchecked(network: nn.Module, input_size: tuple[int, ...]) -> Bundle:
    """network: `_prepared`."""
    nodes, weights, masks, coefficients = traced_graph(inner_network(network), input_size)
    if isinstance(network, PixelInput):
        nodes = _normalising(network, nodes, input_size)
    return Bundle(input_size, tuple(nodes), masks, weights, reference=None, coefficients=coefficients)


def _stand_ins(network: nn.Module, input_size: Sequence[int]) -> Tensor:
    """Pixels of 0 to 1: around the mean pixel, if the network knows it."""
    noise = torch.rand(RANDOM_IMAGES, *input_size, generator=torch.Generator().manual_seed(0))
    if not isinstance(network, PixelInput):
        return noise
    return (network.mean + NOISE * network.std * (2 * noise - 1)).clamp(0, 1)


def _prepared(
    network: nn.Module, input_size: tuple[int, ...], mask: Mapping[str, Tensor] | None, route: str | None
) -> nn.Module:
    """A float32 copy on the CPU in eval mode, of one route, linearized, with the mask."""
    network = with_weights(network)
    routes = routes_of(network)
    if route is None and len(routes) > 1:
        raise UserError(f"the network has several batch-norm routes; give route={' or route='.join(routes)}")
    network = export_route(copied(network), route or routes[0]).cpu().float().eval().requires_grad_(False)
    inner = inner_network(network)
    if not any(isinstance(module, Site) for module in inner.modules()):
        inner = linearize(inner, input_size).eval()
        if isinstance(network, PixelInput):
            network.network = inner
        else:
            network = inner
    to_masked(inner, Mask.of(inner) if mask is None else Mask(mask))
    return network


def _normalising(network: PixelInput, nodes: Sequence[Node], input_size: tuple[int, ...]) -> list[Node]:
    """`nodes` behind the normalisation of the pixels.

    Not folded into the first convolution: that pads with zeros, which are no pixels. The owner of the image does it.
    """
    attributes = {"mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist()}
    name = "normalize"
    while name in {node.name for node in nodes}:  # a module of the user's
        name = f"{name}_pixels"
    first = Node(name, "normalize", (INPUT,), input_size, attributes)
    behind = [
        replace(node, inputs=tuple(first.name if name == INPUT else name for name in node.inputs)) for node in nodes
    ]
    return [first, *behind]
