"""Turn each ReLU call of a network into a module of its own, by tracing with torch.fx.

Needed where calls are functional or in place, or where one nn.ReLU module is called several times.
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.copies import copied
from relinearize.relu.nonlinearities import INPLACE_RELU_FUNCTIONS, RELU_FUNCTIONS
from relinearize.relu.probe import Probe, describe, does_the_same, listed, trains_the_same

_RELU_METHODS = {"relu": False, "relu_": True}  # whether they work in place
KNOWN = ("torch.", "torchvision.")


def traced_with_sites(model: nn.Module, found: Probe) -> fx.GraphModule:
    """The inference graph of a copy of `model` with a MaskedReLU for each ReLU call that `found` saw, in eval mode.

    Functions that are told the mode of their module (`F.dropout(x, 0.5, self.training)`) follow it as before.
    Raises UserError, with the calls that make tracing necessary, where it fails or where the graph computes something
    else than `model`, in eval or in train mode.
    """
    root = copied(model).eval()
    tracer = _Tracer(root, found)
    graph = tracer.graph_of(root)
    of_image = set(graph.find_nodes(op="placeholder"))
    for node in graph.nodes:
        if of_image.intersection(node.all_input_nodes):
            of_image.add(node)
    nodes = [node for node in graph.nodes if node in of_image and _works_in_place(node, root) is not None]
    if len(nodes) != len(found.calls):
        raise UserError(
            f"tracing found {len(nodes)} of the {len(found.calls)} ReLU calls {describe(found.calls)}; "
            "write them as nn.ReLU modules, each called once"
        )
    names = _site_names(nodes, root)
    for index, (node, name, call) in enumerate(zip(nodes, names, found.calls, strict=True)):
        root.set_submodule(name, MaskedReLU(call.shape, index).to(found.device))
        _call_site(graph, node, name, in_place=_works_in_place(node, model))
    _follow_the_mode(graph, root)
    graph.lint()
    network = fx.GraphModule(root, graph, class_name=type(model).__name__).eval()
    saved = model.state_dict()
    for name, _ in network.named_buffers():
        if name not in saved:  # torch makes a buffer of every tensor that the forward pass names
            owner, _, buffer = name.rpartition(".")
            network.get_submodule(owner)._non_persistent_buffers_set.add(buffer)
    if not does_the_same(network, found, traced=True):
        raise UserError(
            f"the network computes something else after tracing; its ReLU calls are {describe(found.calls)}: "
            "write them as nn.ReLU modules, each called once"
        )
    asking = not found.other_relus_in_training and listed(sorted(tracer.modules_that_ask))
    if asking or not trains_the_same(network, model, found):
        why = f"in {asking}, `self.training` decides" if asking else "outputs, gradients or buffers differ"
        raise UserError(
            f"after tracing the network would train differently: {why}. Tracing is needed for its ReLU calls "
            f"{describe(found.calls)}: make each an nn.ReLU module of its own, or move what differs into a module"
        )
    return network


class ForOneImage(fx.Tracer):
    """Follows what a network does with one argument, the image; others have the defaults of its forward.

    For linearized networks: each masked ReLU is one call, as the modules of torch are; all others are entered.
    """

    def graph_of(self, root: nn.Module) -> fx.Graph:
        """Raises whatever the forward of `root` raises."""
        kind = type(root)
        root.__class__ = type(kind.__name__, (kind,), {"forward": lambda self, image: kind.forward(self, image)})
        try:
            with torch.no_grad():
                return self.trace(root)
        finally:
            root.__class__ = kind

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, MaskedReLU) or super().is_leaf_module(module, path)


class ByMode(nn.Module):
    """A function called with its module's mode: `F.dropout(x, 0.5, training=self.training)`.

    `place`: where the mode stands, an index of the positional arguments or a name.
    """

    def __init__(self, function: Callable[..., Any], place: int | str) -> None:
        super().__init__()
        self.function = function
        self.place = place

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.place, str):
            return self.function(*args, **kwargs, **{self.place: self.training})
        return self.function(*args[: self.place], self.training, *args[self.place :], **kwargs)


class _Mode(int):
    """`training` of a traced module: false, and notes which modules decide something by it."""

    path: str
    asked: set[str]

    def __bool__(self) -> bool:
        self.asked.add(self.path or "the network itself")
        return False


class ByValue(ForOneImage):
    """Values are computed along with the graph, on `image`, a batch of them.

    What a forward decides by a size (`if h == 64`) is decided as for that image, as masks have its size, too; what it
    decides by pixels, or by the size of the batch, cannot be traced.
    """

    def __init__(self, root: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.values: dict[fx.Node, Any] = {}
        self._image = image
        self._modules = set(root.modules())
        self._computing = False
        self._runner = fx.Interpreter(root, garbage_collect_values=False, graph=fx.Graph())

    def call_module(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._computing or module not in self._modules:  # nn.ReLU()(x) in a forward
            return forward(*args, **kwargs)
        return super().call_module(module, forward, args, kwargs)

    def getattr(self, name: str, value: Any, parameters: dict[str, Any]) -> Any:
        return value if self._computing else super().getattr(name, value, parameters)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        self._computing = True
        self.values[node] = self._value(node)
        self._computing = False
        return node

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self.values[obj.node]
        return super().to_bool(obj) if isinstance(value, Tensor) or self._of_batch_size(obj.node) else bool(value)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = self.values[obj.node]
        return super().iter(obj) if isinstance(value, Tensor) else (obj[index] for index in range(len(value)))

    def _value(self, node: fx.Node) -> Any:
        def value_of(argument: Any) -> Any:
            if isinstance(argument, _Mode):
                return False
            return self.values[argument] if isinstance(argument, fx.Node) else argument

        if node.op == "placeholder":
            return self._image.clone()
        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), value_of)
        return getattr(self._runner, node.op)(node.target, args, kwargs)

    def _of_batch_size(self, node: fx.Node) -> bool:
        if isinstance(self.values[node], Tensor):
            return False
        first = node.target in (operator.getitem, "size") and node.args[1:] == (0,)
        return first or any(map(self._of_batch_size, node.all_input_nodes))


class _Tracer(ByValue):
    """Enters only modules in which a ReLU is called, so that all others keep their train and eval behaviour."""

    def __init__(self, root: nn.Module, found: Probe) -> None:
        super().__init__(root, found.input)
        self._found = found
        self.modules_that_ask: set[str] = set()

    def graph_of(self, root: nn.Module) -> fx.Graph:
        entered = {path: root.get_submodule(path) for path in self._found.owners}
        # torch's and torchvision's own ask for their mode only for auxiliary heads, or for ways to compute the same.
        entered = {path: one for path, one in entered.items() if not type(one).__module__.startswith(KNOWN)}
        for path, module in entered.items():
            module.training = _Mode(0)
            module.training.path, module.training.asked = path, self.modules_that_ask
        try:
            graph = super().graph_of(root)
        except Exception as error:  # tracing runs the user's forward: anything can be raised there
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            awkward = [call for call in self._found.calls if not call.is_module] or self._found.calls
            raise UserError(
                f"the network cannot be traced ({reason}), which its ReLU calls {describe(awkward)} make necessary; "
                "write them as nn.ReLU modules, each called once"
            ) from error
        finally:
            for module in entered.values():
                module.training = False
        plain = fx.Graph()  # knows nothing of this tracer, so that the network can be pickled
        plain.output(plain.graph_copy(graph, {}))
        return plain

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return type(module) is nn.ReLU or path not in self._found.owners


def _works_in_place(node: fx.Node, model: nn.Module) -> bool | None:
    """Whether this call of a ReLU writes over its input; None for all other calls."""
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        return module.inplace if type(module) is nn.ReLU else None
    if node.op == "call_function" and node.target in RELU_FUNCTIONS:
        inplace = node.args[1] if len(node.args) > 1 else node.kwargs.get("inplace", False)
        return node.target in INPLACE_RELU_FUNCTIONS or bool(inplace)
    return _RELU_METHODS.get(node.target) if node.op == "call_method" else None


def _site_names(nodes: list[fx.Node], root: nn.Module) -> list[str]:
    """Path of the called module, or `relu` inside the module whose code calls it; `_1`, `_2` for later calls."""
    names: list[str] = []
    for node in nodes:
        own = node.target if node.op == "call_module" else None
        numbered = _numbered(own or _inside(node, "relu"))
        names.append(next(name for name in numbered if name not in names and (name == own or not _exists(root, name))))
    return names


def _numbered(name: str) -> Iterator[str]:
    """`name`, `name_1`, `name_2`, ..."""
    return itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))


def _inside(node: fx.Node, name: str) -> str:
    """The path of `name` in the module whose code makes the call."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return ".".join(filter(None, [stack[-1][0] if stack else "", name]))


def _exists(root: nn.Module, path: str) -> bool:
    owner, _, attribute = path.rpartition(".")
    return hasattr(root.get_submodule(owner), attribute)


def _call_site(graph: fx.Graph, node: fx.Node, name: str, in_place: bool) -> None:
    given = node.args[0] if node.args else node.kwargs["input"]
    with graph.inserting_after(node):
        site = graph.call_module(name, (given,))
    node.replace_all_uses_with(site)
    if in_place:
        # Whoever reads the input after an in-place call reads the activated values, also if the result is thrown away.
        nodes = list(graph.nodes)
        later = set(nodes[nodes.index(site) + 1 :])
        given.replace_all_uses_with(site, delete_user_cb=lambda user: user in later)
    graph.erase_node(node)


def _follow_the_mode(graph: fx.Graph, root: nn.Module) -> None:
    """Functions that were told `self.training` become modules, which have a mode of their own."""
    for node in list(graph.nodes):
        places = [place for place, value in [*enumerate(node.args), *node.kwargs.items()] if isinstance(value, _Mode)]
        if node.op != "call_function" or not places:
            continue
        (place,) = places
        path = next(name for name in _numbered(_inside(node, node.target.__name__)) if not _exists(root, name))
        root.set_submodule(path, ByMode(node.target, place).eval())
        args = [value for value in node.args if not isinstance(value, _Mode)]
        kwargs: Mapping[str, Any] = {key: value for key, value in node.kwargs.items() if not isinstance(value, _Mode)}
        with graph.inserting_after(node):
            follows = graph.call_module(path, tuple(args), dict(kwargs))
        node.replace_all_uses_with(follows)
        graph.erase_node(node)
