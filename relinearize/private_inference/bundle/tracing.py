"""From a linearized torch network to the nodes of a bundle, batch norms folded into the layers before them."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import stochastic_depth

from relinearize.backbones.batch_norm import NORMS, folded
from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import INPUT, Node
from relinearize.private_inference.bundle.operations import OPERATIONS, Shape, result_shape
from relinearize.relu.activation import MaskedReLU, ReplacedReLU
from relinearize.relu.tracing import ByValue

BATCH = 2  # of the images that the shapes are found with
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
CARRIERS = ("conv2d", "linear", "affine")  # what a batch norm can be folded into


def traced_graph(
    network: nn.Module, input_shape: Shape
) -> tuple[list[Node], dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(nodes in topological order; their tensors, float32, `NODE.role`; the mask of each site, bool; the coefficients
    of replaced ones) of `network` (linearized, eval mode, on the CPU) for images of C x H x W.

    A batch norm is folded into the convolution, linear layer or batch norm before it, if that feeds nothing else;
    behind an addition or a concatenation it stays as `affine`. A pooling over one pixel that only skips pixels becomes
    the stride of the 1x1 convolutions after it.

    Raises UserError, naming the call, where the network cannot be traced or does what no operation of a bundle does.
    """
    try:
        tracer = ByValue(network, torch.zeros(BATCH, *input_shape))
        graph = tracer.graph_of(network)
    except Exception as error:  # the user's forward runs here: anything can be raised
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"the network cannot be exported: torch.fx cannot trace it ({reason})") from error
    found = _Translation(network, graph, tracer.values, input_shape)
    with torch.no_grad():
        found.translate_all()
    weights = {name: tensor.float().numpy() for name, tensor in found.tensors.items()}
    return _with_strides(list(found.nodes.values()), weights), weights, found.masks, found.coefficients


class _Translation:
    def __init__(self, network: nn.Module, graph: fx.Graph, values: dict[fx.Node, Any], input_shape: Shape) -> None:
        """values: of the calls in `graph`, for a batch of images."""

        def by_value(argument: fx.Node) -> Any:
            value = values[argument]
            return tuple(value) if isinstance(value, torch.Size) else value if isinstance(value, int) else argument

        self.network, self.values = network, values
        self.calls = list(graph.nodes)
        for call in self.calls:  # sizes of maps, which a forward gives to poolings and flattenings
            call.args, call.kwargs = fx.node.map_arg((call.args, call.kwargs), by_value)
        self.used = _needed(self.calls[-1])
        self.shapes: dict[str, Shape] = {INPUT: tuple(input_shape)}
        self.names: dict[fx.Node, str] = {}  # a call -> the node that holds its result
        self.nodes: dict[str, Node] = {}
        self.tensors: dict[str, Tensor] = {}  # `NODE.role`; float64 until all is folded
        self.masks: dict[str, np.ndarray] = {}
        self.coefficients: dict[str, np.ndarray] = {}

    def translate_all(self) -> None:
        for call in self.calls:
            if call.op == "placeholder":
                self.names[call] = INPUT
            elif call.op == "output":
                if not isinstance(call.args[0], fx.Node) or len(self.result(call.args[0]) or ()) != 1:
                    raise UserError("the network cannot be exported: its result is not one tensor of N x classes")
                if call.args[0] not in self.names or self.names[call.args[0]] != next(reversed(self.nodes), None):
                    raise UserError("the network cannot be exported: its result is not what it computes last")
            elif call in self.used:
                self._translate(call)

    def _translate(self, call: fx.Node) -> None:
        """By the first of _TRANSLATIONS that knows the function, the method, or a class of the module."""
        keys, said = [call.target], f"{call.op} {call.target}"
        if call.op == "call_module":
            keys = type(self.network.get_submodule(call.target)).__mro__
            said = f"{keys[0].__name__} at {call.target}"
        elif call.op == "call_function":
            said = getattr(call.target, "__name__", str(call.target))
        elif call.op == "call_method":
            said = f"Tensor.{call.target}"
        try:
            translate = next((_TRANSLATIONS[key] for key in keys if key in _TRANSLATIONS), None)
            if translate is None or not call.op.startswith("call"):
                raise ValueError("no operation of a bundle does this")
            given = _argument(call, 0, "input")
            result = translate(self, call, given, self._module(call))
            if isinstance(result, fx.Node):  # dropout, identity, a folded batch norm: nothing is left
                self.names[call] = self._input(result)
                return
            self.names[call] = result.name
            if result.shape != self.result(call):
                raise ValueError(f"gives {self.result(call)}, where {result.op} gives {result.shape}")
        except (TypeError, ValueError) as error:
            known = ", ".join(OPERATIONS)
            raise UserError(f"the network cannot be exported: {call.name} ({said}): {error}; known: {known}") from error

    def _input(self, given: Any) -> str:
        if not isinstance(given, fx.Node) or given not in self.names:
            raise ValueError(f"{given!r} is no map that the network computes")
        return self.names[given]

    def _module(self, call: fx.Node) -> nn.Module | None:
        """The module that is called, or the one that a functional call stands for."""
        if call.op == "call_module":
            return self.network.get_submodule(call.target)
        stands_for = _AS_MODULE.get(call.target)
        return stands_for and stands_for(*call.args[1:], **{k: v for k, v in call.kwargs.items() if k != "input"})

    def add(self, call: fx.Node, op: str, inputs: Sequence[Any], name: str | None = None, **settings: Any) -> Node:
        """Append a node; `settings` are its tensors (torch's, by role), its attributes, the mask of a site."""
        name = name or (call.target if call.op == "call_module" else call.name)
        base, number = name, 1
        while name in self.shapes:  # a module that is called again
            name, number = f"{base}_{number}", number + 1
        sources = tuple(given if isinstance(given, str) else self._input(given) for given in inputs)
        tensors = {role: settings[role].detach().double() for role in OPERATIONS[op].tensors}
        attributes = {key: settings[key] for key in OPERATIONS[op].attributes}
        arguments = settings | {role: tensor.numpy() for role, tensor in tensors.items()}
        shape = result_shape(op, [self.shapes[source] for source in sources], arguments)
        self.nodes[name] = Node(name, op, sources, shape, attributes)
        self.shapes[name] = shape
        self.tensors |= {f"{name}.{role}": tensor for role, tensor in tensors.items()}
        return self.nodes[name]

    def result(self, call: fx.Node) -> Shape | None:
        """Its shape without batch, None unless it is one tensor."""
        value = self.values[call]
        return tuple(value.shape[1:]) if isinstance(value, Tensor) else None

    def shape(self, given: Any) -> Shape:
        return self.shapes[self._input(given)]

    def carrier(self, call: fx.Node, given: Any) -> str | None:
        """The node whose result `call` alone reads, if a batch norm can be folded into it."""
        name = self._input(given)
        same = [other for other, held in self.names.items() if held == name]
        readers = {reader for one in same for reader in one.users if reader in self.used} - set(same)
        return name if name in self.nodes and self.nodes[name].op in CARRIERS and readers == {call} else None


def _needed(output: fx.Node) -> set[fx.Node]:
    """The calls that `output` depends on."""
    needed, waiting = set(), [output]
    while waiting:
        call = waiting.pop()
        if call not in needed:
            needed.add(call)
            waiting += call.all_input_nodes
    return needed


def _with_strides(nodes: list[Node], weights: dict[str, np.ndarray]) -> list[Node]:
    """`nodes` without the poolings over one pixel whose stride the 1x1 convolutions behind them can take."""

    def takes_a_stride(node: Node) -> bool:
        plain = (node.attributes["stride"], node.attributes["padding"]) == ([1, 1], [0, 0])
        return plain and weights[f"{node.name}.weight"].shape[2:] == (1, 1)

    for pool in nodes:
        readers = [node for node in nodes if pool.name in node.inputs]
        if pool.op != "avg_pool" or pool.attributes["kernel"] != [1, 1] or any(pool.attributes["padding"]):
            continue
        if readers and all(node.op == "conv2d" and takes_a_stride(node) for node in readers):
            strided = {"stride": pool.attributes["stride"]}
            nodes = [
                replace(node, inputs=pool.inputs, attributes=node.attributes | strided) if node in readers else node
                for node in nodes
                if node is not pool
            ]
    return nodes


def _argument(call: fx.Node, place: int, name: str, default: Any = None) -> Any:
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)


def _pair(value: Any) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value) * (2 // max(1, len(value)))
    if len(pair) != 2 or not all(type(number) is int for number in pair):
        raise ValueError(f"{value!r} is no pair of integers")
    return pair


# ---- one function per kind of call: makes a node, or returns the call whose result is its own ------------------


def _conv(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node:
    if module.padding_mode != "zeros":
        raise ValueError(f"padding_mode={module.padding_mode}")
    padding = module.padding
    if isinstance(padding, str):
        left, right, top, bottom = module._reversed_padding_repeated_twice
        if left != right or top != bottom:
            raise ValueError(f"padding={padding} with another number of zeros on each side")
        padding = (top, left)
    bias = module.bias if module.bias is not None else torch.zeros(module.out_channels)
    return graph.add(
        call, "conv2d", [x], weight=module.weight, bias=bias, stride=_pair(module.stride),
        padding=_pair(padding), dilation=_pair(module.dilation), groups=module.groups,
    )  # fmt: skip


def _linear(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node:
    bias = module.bias if module.bias is not None else torch.zeros(module.out_features)
    return graph.add(call, "linear", [x], weight=module.weight, bias=bias)


def _norm(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node | fx.Node:
    if module.running_mean is None:
        raise ValueError("it keeps no running statistics (track_running_stats=False)")
    if (before := graph.carrier(call, x)) is not None:
        weight, bias = (f"{before}.{role}" for role in OPERATIONS[graph.nodes[before].op].tensors)
        graph.tensors[weight], graph.tensors[bias] = folded(graph.tensors[weight], graph.tensors[bias], module)
        return x
    scale, shift = folded(torch.ones(module.num_features, dtype=torch.float64), None, module)
    return graph.add(call, "affine", [x], scale=scale, shift=shift)


def _site(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node:
    mask = module.mask.numpy().copy()
    if not isinstance(module, ReplacedReLU):
        node = graph.add(call, "masked_relu", [x], mask=mask)
    else:
        coefficients = module.coefficients.float().numpy().copy()
        node = graph.add(call, "replaced_relu", [x], mask=mask, coefficients=coefficients)
        graph.coefficients[node.name] = coefficients
    graph.masks[node.name] = mask
    return node


def _window(pool: nn.AvgPool2d | nn.MaxPool2d) -> dict[str, list[int]]:
    stride = pool.stride or pool.kernel_size  # an empty list, in the functional form
    return {"kernel": _pair(pool.kernel_size), "stride": _pair(stride), "padding": _pair(pool.padding)}


def _avg_pool(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node:
    window = _window(module)
    if module.divisor_override or (not module.count_include_pad and any(window["padding"])):
        raise ValueError("divisor_override, or count_include_pad=False with padding")
    return graph.add(call, "avg_pool", [x], **window)


def _max_pool(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node:
    if _pair(module.dilation) != [1, 1] or module.return_indices:
        raise ValueError("dilation or return_indices")
    return graph.add(call, "max_pool", [x], **_window(module))


def _adaptive_pool(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node | fx.Node:
    size = module.output_size
    given = graph.shape(x)[1:]
    if len(given) != 2:
        raise ValueError("needs C x H x W")
    wanted = [
        side if length is None else length
        for length, side in zip(size if isinstance(size, tuple | list) else (size, size), given, strict=True)
    ]
    if wanted == list(given):
        return x
    if wanted == [1, 1]:
        return graph.add(call, "global_avg_pool", [x])
    if any(length > side for side, length in zip(given, wanted, strict=True)):
        raise ValueError(f"from {given} to {tuple(wanted)}: larger than the map; give larger images")
    if any(side % length for side, length in zip(given, wanted, strict=True)):
        raise ValueError(f"from {given} to {tuple(wanted)}: the windows differ in size")
    window = [side // length for side, length in zip(given, wanted, strict=True)]
    return graph.add(call, "avg_pool", [x], kernel=window, stride=window, padding=[0, 0])


def _mean(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node:
    dims = _argument(call, 1, "dim", call.kwargs.get("axis"))
    dims = () if dims is None else dims if isinstance(dims, tuple | list) else (dims,)
    if {dim % 4 for dim in dims} != {2, 3} or len(graph.shape(x)) != 3:
        raise ValueError("a mean over something else than height and width")
    keeps = _argument(call, 2, "keepdim", False)
    pooled = graph.add(call, "global_avg_pool", [x], name=call.name if keeps else f"{call.name}_pool")
    return pooled if keeps else graph.add(call, "flatten", [pooled.name])


def _flatten(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node | fx.Node:
    """flatten, view, reshape and squeeze, where N x (all the rest) comes out."""
    shape, result = graph.shape(x), graph.result(call)
    if result in (shape, (shape[0], 1)) and math.prod(result) == math.prod(shape):  # of one pixel the sides go singly
        return x
    if result != (math.prod(shape),):
        raise ValueError(f"a change of shape from {shape} to {result}")
    return graph.add(call, "flatten", [x])


def _add(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node:
    if call.kwargs.get("alpha", 1) != 1:
        raise ValueError("alpha")
    return graph.add(call, "add", [x, _argument(call, 1, "other")])


def _concat(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> Node | fx.Node:
    maps, dim = _argument(call, 0, "tensors"), _argument(call, 1, "dim", call.kwargs.get("axis", 0))
    if dim not in (1, -len(graph.result(call) or ())):
        raise ValueError(f"dim={dim}")
    return graph.add(call, "concat", maps) if len(maps) > 1 else maps[0]


def _nothing(graph: _Translation, call: fx.Node, x: Any, module: nn.Module | None) -> fx.Node:
    return x


_AS_MODULE: dict[Callable[..., Any], Callable[..., nn.Module]] = {  # whose arguments are those behind the input
    F.avg_pool2d: nn.AvgPool2d,
    F.max_pool2d: nn.MaxPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}

# Classes of modules, functions, names of Tensor's methods -> who translates their calls.
_TRANSLATIONS: dict[Any, Callable[[_Translation, fx.Node, Any, nn.Module | None], Node | fx.Node]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    MaskedReLU: _site,
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys((nn.AvgPool2d, F.avg_pool2d), _avg_pool),
    **dict.fromkeys((nn.MaxPool2d, F.max_pool2d), _max_pool),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d), _adaptive_pool),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys((nn.Flatten, torch.flatten, torch.reshape, "flatten", "view", "reshape"), _flatten),
    **dict.fromkeys((torch.squeeze, "squeeze"), _flatten),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concat),
    **dict.fromkeys((nn.Identity, *DROPOUTS, "contiguous", "clone", "detach"), _nothing),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, stochastic_depth), _nothing),
}
