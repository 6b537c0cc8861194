"""From a linearized torch network to the nodes of a bundle, batch norms not yet folded."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import INPUT, Node
from relinearize.private_inference.bundle.operations import OPERATIONS, Shape
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.tracing import SitesAsLeaves

BATCH = 2  # of the shapes' run
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Graph(NamedTuple):
    """Nodes in topological order, their tensors (float64, `NODE.role`) and the mask of each site (bool)."""

    nodes: list[Node]
    weights: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


class _Refused(Exception):
    """What of a call a bundle does not know."""


def traced_graph(network: nn.Module, input_shape: Shape) -> Graph:
    """The graph of `network` (linearized, eval mode, on the CPU) for images of C x H x W.

    Raises UserError, naming the call, where the network cannot be traced or does what no operation of a bundle does.
    """
    try:
        traced = fx.GraphModule(network, SitesAsLeaves().trace(network))
        with torch.no_grad():
            ShapeProp(traced).propagate(torch.zeros(BATCH, *input_shape))
    except Exception as error:  # the user's forward runs here: anything can be raised
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"the network cannot be exported: torch.fx cannot trace it ({reason})") from error
    return _Translation(traced, input_shape).graph()


class _Translation:
    def __init__(self, traced: fx.GraphModule, input_shape: Shape) -> None:
        self.modules = dict(traced.named_modules())
        self.calls = list(traced.graph.nodes)
        self.shapes: dict[str, Shape] = {INPUT: tuple(input_shape)}
        self.names: dict[fx.Node, str] = {}  # a call -> the node that holds its result
        self.nodes: list[Node] = []
        self.weights: dict[str, np.ndarray] = {}
        self.masks: dict[str, np.ndarray] = {}

    def graph(self) -> Graph:
        used = _needed(self.calls[-1])
        for call in self.calls:
            if call.op == "placeholder":
                if self.names:
                    raise UserError("the network cannot be exported: it takes more than one input")
                self.names[call] = INPUT
            elif call.op == "output":
                if not isinstance(call.args[0], fx.Node) or len(_shape(call.args[0]) or ()) != 1:
                    raise UserError("the network cannot be exported: its result is not one tensor of N x classes")
                if call.args[0] not in self.names or not self.nodes or self.nodes[-1].name != self.names[call.args[0]]:
                    raise UserError("the network cannot be exported: its result is not what it computes last")
            elif call in used:
                self._translate(call)
        return Graph(self.nodes, self.weights, self.masks)

    def _translate(self, call: fx.Node) -> None:
        kind, translate = self._translator(call)
        try:
            if translate is None:
                raise _Refused("no operation of a bundle does this")
            result = translate(self, call)
            if isinstance(result, fx.Node):  # dropout, identity: nothing is left
                self.names[call] = self._input(result)
                return
            self.names[call] = result.name
            if result.shape != _shape(call):
                raise _Refused(f"gives {_shape(call)}, where {result.op} gives {result.shape}")
        except (_Refused, ValueError) as error:
            known = ", ".join(OPERATIONS)
            raise UserError(f"the network cannot be exported: {call.name} ({kind}): {error}; known: {known}") from error

    def _translator(self, call: fx.Node) -> tuple[str, Callable[["_Translation", fx.Node], Any] | None]:
        if call.op == "call_module":
            module = self.modules[call.target]
            found = (function for classes, function in _MODULES.items() if isinstance(module, classes))
            return f"{type(module).__name__} at {call.target}", next(found, None)
        if call.op == "call_function":
            return getattr(call.target, "__name__", str(call.target)), _FUNCTIONS.get(call.target)
        if call.op == "call_method":
            return f"Tensor.{call.target}", _METHODS.get(call.target)
        return f"{call.op} {call.target}", None

    def _input(self, given: Any) -> str:
        if not isinstance(given, fx.Node) or given not in self.names:
            raise _Refused(f"{given!r} is no map that the network computes")
        return self.names[given]

    def add(self, call: fx.Node, op: str, inputs: Sequence[Any], name: str | None = None, **settings: Any) -> Node:
        """Append a node; `settings` are its tensors (torch's, by role) and its attributes."""
        name = name or (call.target if call.op == "call_module" else call.name)
        base, number = name, 1
        while name in self.shapes:  # a module that is called again
            name, number = f"{base}_{number}", number + 1
        sources = tuple(given if isinstance(given, str) else self._input(given) for given in inputs)
        tensors = {role: value.detach().double().numpy() for role, value in settings.items() if role in _ROLES}
        attributes = {key: value for key, value in settings.items() if key not in _ROLES}
        rule = OPERATIONS[op].shape
        tensor_shapes = {role: value.shape for role, value in tensors.items()}
        shape = rule([self.shapes[source] for source in sources], attributes, tensor_shapes)
        node = Node(name, op, sources, shape, attributes)
        self.nodes.append(node)
        self.shapes[name] = shape
        self.weights |= {f"{name}.{role}": value for role, value in tensors.items()}
        return node

    def shape(self, given: Any) -> Shape:
        return self.shapes[self._input(given)]


_ROLES = {role for operation in OPERATIONS.values() for role in operation.tensors}


def _needed(output: fx.Node) -> set[fx.Node]:
    """The calls that `output` depends on, those aside that only tell a flattening its sizes."""
    needed, waiting = set(), [output]
    while waiting:
        call = waiting.pop()
        if call not in needed:
            needed.add(call)
            flattens = call.op == "call_method" and call.target in ("view", "reshape")
            waiting += [call.args[0]] if flattens or call.target is torch.reshape else call.all_input_nodes
    return needed


def _shape(call: fx.Node) -> Shape | None:
    meta = call.meta.get("tensor_meta")
    return tuple(meta.shape[1:]) if isinstance(getattr(meta, "shape", None), torch.Size) else None


def _argument(call: fx.Node, place: int, name: str, default: Any = None) -> Any:
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)


def _given(call: fx.Node) -> Any:
    return call.args[0] if call.args else call.kwargs.get("input")


def _pair(value: Any) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value) * (2 // max(1, len(value)))
    if len(pair) != 2 or not all(type(number) is int for number in pair):
        raise _Refused(f"{value!r} is no pair of whole numbers")
    return pair


# ---- one function per kind of call: makes a node, or returns the call whose result it only hands on ------------------


def _conv(graph: _Translation, call: fx.Node) -> Node:
    module = graph.modules[call.target]
    if module.padding_mode != "zeros":
        raise _Refused(f"padding_mode={module.padding_mode}")
    padding = module.padding
    if isinstance(padding, str):
        left, right, top, bottom = module._reversed_padding_repeated_twice
        if left != right or top != bottom:
            raise _Refused(f"padding={padding} with another number of zeros on each side")
        padding = (top, left)
    bias = module.bias if module.bias is not None else torch.zeros(module.out_channels)
    return graph.add(
        call, "conv2d", [_given(call)], weight=module.weight, bias=bias, stride=_pair(module.stride),
        padding=_pair(padding), dilation=_pair(module.dilation), groups=module.groups,
    )  # fmt: skip


def _linear(graph: _Translation, call: fx.Node) -> Node:
    module = graph.modules[call.target]
    bias = module.bias if module.bias is not None else torch.zeros(module.out_features)
    return graph.add(call, "linear", [_given(call)], weight=module.weight, bias=bias)


def _norm(graph: _Translation, call: fx.Node) -> Node:
    norm = graph.modules[call.target]
    if norm.running_mean is None:
        raise _Refused("it keeps no running statistics (track_running_stats=False)")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale + (0 if norm.bias is None else norm.bias.double())
    return graph.add(call, "affine", [_given(call)], scale=scale, shift=shift)


def _site(graph: _Translation, call: fx.Node) -> Node:
    node = graph.add(call, "masked_relu", [_given(call)])
    graph.masks[node.name] = graph.modules[call.target].mask.numpy().copy()
    return node


def _settings(names: Sequence[str], defaults: Sequence[Any]) -> Callable[[_Translation, fx.Node], dict[str, Any]]:
    """Reads the settings of a pooling from its module's attributes or its call's arguments."""

    def read(graph: _Translation, call: fx.Node) -> dict[str, Any]:
        if call.op == "call_module":
            return {name: getattr(graph.modules[call.target], name) for name in names}
        return {
            name: _argument(call, place, name, default)
            for place, (name, default) in enumerate(zip(names, defaults, strict=True), start=1)
        }

    return read


_avg_settings = _settings(
    ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    (None, None, 0, False, True, None),
)
_max_settings = _settings(
    ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"), (None, None, 0, 1, False, False)
)


def _window(said: dict[str, Any]) -> dict[str, list[int]]:
    stride = said["kernel_size"] if said["stride"] in (None, [], ()) else said["stride"]
    return {"kernel": _pair(said["kernel_size"]), "stride": _pair(stride), "padding": _pair(said["padding"])}


def _avg_pool(graph: _Translation, call: fx.Node) -> Node:
    said = _avg_settings(graph, call)
    window = _window(said)
    if said["divisor_override"] or (not said["count_include_pad"] and any(window["padding"])):
        raise _Refused("divisor_override, or count_include_pad=False with padding")
    return graph.add(call, "avg_pool", [_given(call)], **window)


def _max_pool(graph: _Translation, call: fx.Node) -> Node:
    said = _max_settings(graph, call)
    if _pair(said["dilation"]) != [1, 1] or said["return_indices"]:
        raise _Refused("dilation or return_indices")
    return graph.add(call, "max_pool", [_given(call)], **_window(said))


def _adaptive_pool(graph: _Translation, call: fx.Node) -> Node | fx.Node:
    size = graph.modules[call.target].output_size if call.op == "call_module" else _argument(call, 1, "output_size")
    given = graph.shape(_given(call))[1:]
    if len(given) != 2:
        raise _Refused("needs C x H x W")
    wanted = [
        side if length is None else length
        for length, side in zip(size if isinstance(size, tuple | list) else (size, size), given, strict=True)
    ]
    if wanted == list(given):
        return _given(call)
    if wanted == [1, 1]:
        return graph.add(call, "global_avg_pool", [_given(call)])
    if any(side % length for side, length in zip(given, wanted, strict=True)):
        raise _Refused(f"from {given} to {tuple(wanted)}: the windows differ in size")
    window = [side // length for side, length in zip(given, wanted, strict=True)]
    return graph.add(call, "avg_pool", [_given(call)], kernel=window, stride=window, padding=[0, 0])


def _mean(graph: _Translation, call: fx.Node) -> Node:
    dims = _argument(call, 1, "dim", ())
    dims = {dim % 4 for dim in (dims if isinstance(dims, tuple | list) else (dims,))}
    if dims != {2, 3} or len(graph.shape(_given(call))) != 3:
        raise _Refused("a mean over something else than height and width")
    keeps = _argument(call, 2, "keepdim", False)
    pooled = graph.add(call, "global_avg_pool", [_given(call)], name=call.name if keeps else f"{call.name}_pool")
    return pooled if keeps else graph.add(call, "flatten", [pooled.name])


def _flatten(graph: _Translation, call: fx.Node) -> Node | fx.Node:
    """flatten, view and reshape: whatever way it is said, N x (all the rest) comes out."""
    shape, result = graph.shape(_given(call)), _shape(call)
    if result == shape:
        return _given(call)
    if result != (math.prod(shape),):
        raise _Refused(f"a change of shape from {shape} to {result}")
    return graph.add(call, "flatten", [_given(call)])


def _add(graph: _Translation, call: fx.Node) -> Node:
    if call.kwargs.get("alpha", 1) != 1:
        raise _Refused("alpha")
    return graph.add(call, "add", [call.args[0], _argument(call, 1, "other")])


def _concat(graph: _Translation, call: fx.Node) -> Node | fx.Node:
    maps, dim = _argument(call, 0, "tensors"), _argument(call, 1, "dim", 0)
    if dim not in (1, -len(_shape(call) or ())):
        raise _Refused(f"dim={dim}")
    return graph.add(call, "concat", maps) if len(maps) > 1 else maps[0]


def _nothing(graph: _Translation, call: fx.Node) -> fx.Node:
    return _given(call)


_MODULES: dict[Any, Callable[[_Translation, fx.Node], Any]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    (nn.BatchNorm1d, nn.BatchNorm2d): _norm,
    MaskedReLU: _site,
    nn.AvgPool2d: _avg_pool,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Flatten: _flatten,
    (nn.Identity, *DROPOUTS): _nothing,
}

_FUNCTIONS: dict[Callable[..., Any], Callable[[_Translation, fx.Node], Any]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _add),
    **dict.fromkeys((torch.cat, torch.concat), _concat),
    **dict.fromkeys((torch.flatten, torch.reshape), _flatten),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout), _nothing),
    torch.mean: _mean,
    F.avg_pool2d: _avg_pool,
    F.max_pool2d: _max_pool,
    F.adaptive_avg_pool2d: _adaptive_pool,
}

_METHODS: dict[str, Callable[[_Translation, fx.Node], Any]] = {
    **dict.fromkeys(("add", "add_"), _add),
    **dict.fromkeys(("flatten", "view", "reshape"), _flatten),
    **dict.fromkeys(("contiguous", "clone", "detach"), _nothing),
    "mean": _mean,
}
