"""SENet++ (ordered dropout): one set of weights that is also the weights of narrower networks.

At width s every convolution uses the first s*C of its output and input channels and the classifier the first s*C of
its inputs. Masks are cut likewise; each width has batch norms (affine and statistics) of its own, convolution and
linear weights are shared. So read in the layers of SENet's official code; its training loop is not public.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from relinearize.backbones.adapter import PixelInput, inner_network
from relinearize.backbones.batch_norm import NORMS
from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU, ReplacedReLU
from relinearize.relu.mask import Mask
from relinearize.relu.replacement import COEFFICIENTS
from relinearize.relu.sites import site_shapes, to_masked, to_replaced
from relinearize.relu.tracing import ForOneImage

WEIGHTED = (nn.Conv2d, nn.Linear)
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


# ---- one narrower network ------------------------------------------------------------------------------------------


def first(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The view of the first entries of `tensor` in each dimension, in `shape`."""
    return tensor[tuple(slice(size) for size in shape)]


def first_channels(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Of each of `weights` the first entries, as far as a narrower `network` has room for them; views."""
    return {name: first(weights[name], value.shape) for name, value in inner_network(network).state_dict().items()}


def first_positions(mask: Mapping[str, Tensor], network: nn.Module) -> Mask:
    """The part of a `mask` that lies in a narrower `network`."""
    return Mask({name: first(mask[name], shape) for name, shape in site_shapes(inner_network(network)).items()})


def narrowed(network: nn.Module, narrower: nn.Module) -> nn.Module:
    """`narrower`, with the first entries of each weight, mask and coefficient of `network` in place of its own.

    `network`: linearized or not, with or without its pixel adapter. `narrower`: the same of a smaller width, all ReLUs
    kept. They share nothing.
    """
    whole, part = inner_network(network), inner_network(narrower)
    weights = whole.state_dict()
    to_masked(part, first_positions(Mask.of(whole), part))
    names = {f"{site}.{COEFFICIENTS}": channels for site, (channels, *_) in site_shapes(part).items()}
    to_replaced(part, {name: weights[name][:, :channels] for name, channels in names.items() if name in weights})
    part.load_state_dict(first_channels(weights, part))
    return narrower


def check_narrowable(network: nn.Module) -> None:
    """UserError where the first channels would get lost: groups, concatenations, other layers with tensors of their
    own, and what torch.fx cannot follow.
    """
    for name, layer in network.named_modules():
        if type(layer) is nn.Conv2d and layer.groups != 1:
            raise UserError(f"layer {name} cannot be narrowed: it has {layer.groups} groups")
        tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if tensors and type(layer) not in (*WEIGHTED, *NORMS, MaskedReLU, ReplacedReLU):
            raise UserError(
                f"layer {name} of class {type(layer).__name__} cannot be narrowed; "
                "nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d and masked ReLUs can"
            )
    try:
        graph = ForOneImage().graph_of(network)
    except Exception as error:  # whatever a user's forward does to a symbolic tensor
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the network cannot be narrowed, since torch.fx cannot follow it: {reason}") from error
    if any(node.target in CONCATENATIONS for node in graph.nodes):
        raise UserError("networks that concatenate feature maps cannot be narrowed: the first channels get lost")


# ---- all widths in one ---------------------------------------------------------------------------------------------


class OrderedNetwork(nn.Module):
    """A network and its narrower versions on the same convolution and linear weights.

    The full network is `full`, trained in place. Each narrower one runs on views of the first entries of the full
    weights, so that nothing can drift and gradients add up there; its batch norms are its own and start as the first
    channels of the full ones. Parameters, optimizers and state dicts hold each shared weight once.

    Args:
        network: linearized or not, with or without its pixel adapter.
        narrower: from a fraction below 1 to a new network of that width, all ReLUs kept.
        widths: fractions in (0, 1], among them 1 (the full network).

    Raises UserError for other widths and for networks that `check_narrowable` or `narrower` refuses.
    """

    def __init__(
        self, network: nn.Module, narrower: Callable[[float], nn.Module], widths: Sequence[float] = (0.5, 1.0)
    ) -> None:
        super().__init__()
        numbers = isinstance(widths, list | tuple) and all(type(width) in (int, float) for width in widths)
        if not numbers or len(set(widths)) < len(widths) or max(widths, default=0) != 1 or min(widths) <= 0:
            raise UserError("give a list of different fractions above 0 and up to 1.0 (the full network), 1.0 included")
        self.widths = tuple(sorted(float(width) for width in widths))
        if len(self.widths) > 1:
            check_narrowable(inner_network(network))
        self.full = network
        self.narrow = nn.ModuleList(narrowed(network, narrower(width)) for width in self.widths[:-1])
        self._index = {width: index for index, width in enumerate(self.widths[:-1])}
        self._borrowed = [_without_weights(narrow) for narrow in self.narrow]  # name -> shape, of each narrower one

    def forward(self, x: Tensor, fraction: float = 1.0) -> Tensor:
        """Pixels N x C x H x W to logits N x classes, by the network of width `fraction`."""
        if fraction == 1.0:
            return self.full(x)
        index = self._index[fraction]
        borrowed = {name: first(self.full.get_parameter(name), shape) for name, shape in self._borrowed[index].items()}
        return functional_call(self.narrow[index], borrowed, (x,), tie_weights=False)

    def at(self, fraction: float) -> nn.Module:
        """The module whose layers run at width `fraction`, for hooks; it cannot be called alone."""
        return self.full if fraction == 1.0 else self.narrow[self._index[fraction]]

    def weights_at(self, state: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
        """From a state dict of this module, that of the ordinary network of width `fraction`, under its own names."""
        adapter = "network." if isinstance(self.full, PixelInput) else ""
        names = [name.removeprefix(adapter) for name in self.full.state_dict()]
        if fraction == 1.0:
            return {name: state[f"full.{adapter}{name}"] for name in names}
        index = self._index[fraction]
        weights = {}
        for name in names:
            shape = self._borrowed[index].get(adapter + name)
            if shape is None:
                weights[name] = state[f"narrow.{index}.{adapter}{name}"]
            else:
                weights[name] = first(state[f"full.{adapter}{name}"], shape).clone()
        return weights


class OneWidth(nn.Module):
    """One width of an OrderedNetwork as a network of its own: pixels to logits."""

    def __init__(self, network: OrderedNetwork, fraction: float) -> None:
        super().__init__()
        self.network, self.fraction = network, fraction

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, self.fraction)


def _without_weights(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Take the weights of convolutions and linear layers out of `network`; returns their names and shapes."""
    shapes = {}
    for path, layer in network.named_modules():
        if type(layer) not in WEIGHTED:
            continue
        for name, parameter in layer.named_parameters():
            shapes[f"{path}.{name}".lstrip(".")] = tuple(parameter.shape)
        for name in ("weight", "bias"):
            layer.register_parameter(name, None)
    return shapes
