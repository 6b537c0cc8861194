"""SENet++ (ordered dropout): one set of weights that is also the weights of narrower networks.

At width s every convolution uses the first s*C of its output and input channels and the classifier the first s*C of
its inputs. Masks are cut likewise; each width has batch norms (affine and statistics) of its own, convolution and
linear weights are shared. So read in the layers of SENet's official code; its training loop is not public.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from relinearize.backbones.adapter import PixelInput, inner_network
from relinearize.backbones.batch_norm import NORMS
from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU, ReplacedReLU
from relinearize.relu.tracing import SitesAsLeaves

WEIGHTED = {nn.Conv2d: ("in_channels", "out_channels"), nn.Linear: ("in_features", "out_features")}
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


# ---- one narrower network ------------------------------------------------------------------------------------------


def narrowed(network: nn.Module, fraction: float) -> nn.Module:
    """A copy of `network` with the first `fraction` (in (0, 1]) of the channels of every layer; it shares nothing.

    Convolutions and linear layers keep the first outputs and inputs, batch norms and masks the first channels; the
    image's channels and the classes stay. A backbone of ours becomes what `build_backbone` gives for `width` times
    `fraction`: the same names and shapes. What is cut follows from the graph (torch.fx): layers that read the image
    keep their inputs, layers whose result nothing with weights reads keep their outputs.

    `network`: linearized or not, with or without its pixel adapter. UserError where a channel count times `fraction` is
    not an integer, and for networks with groups, concatenations or other layers with weights, or that torch.fx cannot
    follow.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"width {fraction}: must be above 0 and at most 1")
    narrow = copy.deepcopy(network)
    inner = inner_network(narrow)
    for name, (inputs, outputs) in _cuts(inner).items():
        _cut(inner.get_submodule(name), fraction if inputs else 1, fraction if outputs else 1, name)
    return narrow


def first(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The view of the first entries of `tensor` in each dimension, in `shape`."""
    return tensor[tuple(slice(size) for size in shape)]


def _cuts(network: nn.Module) -> dict[str, tuple[bool, bool]]:
    """Name of each layer with channels -> whether its (inputs, outputs) are cut."""
    try:
        graph = SitesAsLeaves().trace(network)
    except Exception as error:  # whatever a user's forward does to a symbolic tensor
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the network cannot be narrowed, since torch.fx cannot follow it: {reason}") from error
    layers = {name: module for name, module in network.named_modules() if _has_channels(module, name)}
    names = {module: name for name, module in layers.items()}
    called = {node: network.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
    heads = _heads(graph, called)
    cuts: dict[str, tuple[bool, bool]] = {}
    is_cut: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        inputs = outputs = any(is_cut[source] for source in node.all_input_nodes)
        if node.target in CONCATENATIONS:
            raise UserError("networks that concatenate feature maps cannot be narrowed: the first channels get lost")
        module = called.get(node)
        if module in names:
            if type(module) in WEIGHTED:
                outputs = node not in heads
            name = names[module]
            if cuts.setdefault(name, (inputs, outputs)) != (inputs, outputs):
                raise UserError(f"layer {name} cannot be narrowed: it is called both before and after the first layer")
        is_cut[node] = outputs
    unused = [name for name in layers if name not in cuts]
    if unused:
        raise UserError(f"layer {unused[0]} cannot be narrowed: the network does not call it")
    return cuts


def _has_channels(module: nn.Module, name: str) -> bool:
    """Whether `module` is one of the layers that can be cut; UserError for others that hold tensors."""
    if type(module) in (*WEIGHTED, *NORMS, MaskedReLU, ReplacedReLU):
        if getattr(module, "groups", 1) != 1:
            raise UserError(f"layer {name} cannot be narrowed: it has {module.groups} groups")
        return True
    if next(module.parameters(recurse=False), None) is None and next(module.buffers(recurse=False), None) is None:
        return False
    raise UserError(
        f"layer {name} of class {type(module).__name__} cannot be narrowed; "
        "nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d and masked ReLUs can"
    )


def _heads(graph: fx.Graph, called: Mapping[fx.Node, nn.Module]) -> set[fx.Node]:
    """The calls of weighted layers from which the output is reached without another weighted layer."""
    heads: set[fx.Node] = set()
    others: set[fx.Node] = set()  # the output, and what reaches it without a weighted layer
    for node in reversed(graph.nodes):
        if node.op == "output" or others.intersection(node.users):
            (heads if type(called.get(node)) in WEIGHTED else others).add(node)
    return heads


def _part(channels: int, fraction: float, name: str) -> int:
    part = round(channels * fraction)
    if abs(part - channels * fraction) > 1e-6:
        raise UserError(f"width {fraction:g} of the {channels} channels of layer {name} is not an integer")
    return part


def _cut(layer: nn.Module, inputs: float, outputs: float, name: str) -> None:
    if type(layer) in WEIGHTED:
        size_in, size_out = WEIGHTED[type(layer)]
        setattr(layer, size_in, _part(getattr(layer, size_in), inputs, name))
        setattr(layer, size_out, _part(getattr(layer, size_out), outputs, name))
        shape = (getattr(layer, size_out), getattr(layer, size_in), *layer.weight.shape[2:])
        _keep_first(layer, weight=shape, bias=shape[:1])
    elif isinstance(layer, MaskedReLU):
        channels = _part(len(layer.mask), outputs, name)
        layer.mask = layer.mask[:channels].clone()
        if isinstance(layer, ReplacedReLU):
            layer.coefficients = layer.coefficients[:, :channels].clone()
    else:
        layer.num_features = _part(layer.num_features, outputs, name)
        shape = (layer.num_features,)
        _keep_first(layer, weight=shape, bias=shape, running_mean=shape, running_var=shape)


def _keep_first(layer: nn.Module, **shapes: Sequence[int]) -> None:
    for name, shape in shapes.items():
        tensor = getattr(layer, name)
        if tensor is None:
            continue
        kept = first(tensor.detach(), shape).clone()
        if isinstance(tensor, nn.Parameter):
            kept = nn.Parameter(kept, requires_grad=tensor.requires_grad)
        setattr(layer, name, kept)


# ---- all widths in one ---------------------------------------------------------------------------------------------


class OrderedNetwork(nn.Module):
    """A network and its narrower versions on the same convolution and linear weights.

    The full network is `full`, trained in place. Each narrower one runs on views of the first entries of the full
    weights, so that nothing can drift and gradients add up there; its batch norms are its own and start as the first
    channels of the full ones. Parameters, optimizers and state dicts hold each shared weight once.

    Args:
        network: linearized or not, with or without its pixel adapter.
        widths: fractions in (0, 1], among them 1 (the full network).

    Raises UserError for other widths and for networks that `narrowed` refuses.
    """

    def __init__(self, network: nn.Module, widths: Sequence[float] = (0.5, 1.0)) -> None:
        super().__init__()
        numbers = isinstance(widths, list | tuple) and all(type(width) in (int, float) for width in widths)
        if not numbers or len(set(widths)) < len(widths) or max(widths, default=0) != 1 or min(widths) <= 0:
            raise UserError("give a list of different fractions above 0 and up to 1.0 (the full network), 1.0 included")
        self.widths = tuple(sorted(float(width) for width in widths))
        self.full = network
        self.narrow = nn.ModuleList(narrowed(network, width) for width in self.widths[:-1])
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
