"""Turn each ReLU call of a network into a module of its own, by tracing with torch.fx.

Needed where calls are functional or in place, or where one nn.ReLU module is called several times.
"""

import copy
from collections.abc import Iterator

import torch.nn.functional as F
from torch import fx, nn

from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.nonlinearities import INPLACE_RELU_FUNCTIONS, RELU_FUNCTIONS
from relinearize.relu.probe import Probe, describe

_RELU_METHODS = {"relu", "relu_"}
_DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def traced_with_sites(model: nn.Module, found: Probe) -> fx.GraphModule:
    """The inference graph of a copy of `model` with a MaskedReLU for each ReLU call that `found` saw, in eval mode.

    Functional dropout, which tracing would freeze in its inference form, becomes nn.Dropout modules again.
    Raises UserError where tracing fails, with the reason and the calls that make it necessary.
    """
    root = copy.deepcopy(model).eval()
    graph = _trace(root, found)
    nodes = [node for node in graph.nodes if _is_relu(node, root)]
    if len(nodes) != len(found.calls):
        raise UserError(
            f"tracing found {len(nodes)} of the {len(found.calls)} ReLU calls {describe(found.calls)}; "
            "write them as nn.ReLU modules, each called once"
        )
    names = _site_names(nodes, root)
    for index, (node, name, call) in enumerate(zip(nodes, names, found.calls, strict=True)):
        _put_module(root, name, MaskedReLU(call.shape, index).to(found.device))
        _call_site(graph, node, name, in_place=_is_in_place(node, model))
    _restore_dropouts(graph, root)
    graph.lint()
    network = fx.GraphModule(root, graph, class_name=type(model).__name__)
    return network.eval()


class SitesAsLeaves(fx.Tracer):
    """For linearized networks: each masked ReLU is one call, as the modules of torch are; all others are entered."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, MaskedReLU) or super().is_leaf_module(module, path)


class _Tracer(fx.Tracer):
    """Enters only modules in which a ReLU is called, so that all others keep their train and eval behaviour."""

    def __init__(self, owners: set[str]) -> None:
        super().__init__()
        self._owners = owners

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return type(module) is nn.ReLU or path not in self._owners


def _trace(root: nn.Module, found: Probe) -> fx.Graph:
    try:
        return _Tracer(found.owners).trace(root)
    except Exception as error:  # tracing runs the user's forward: anything can be raised there
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        awkward = [call for call in found.calls if not call.is_module] or found.calls
        raise UserError(
            f"the network cannot be traced ({reason}), which its ReLU calls {describe(awkward)} make necessary; "
            "write them as nn.ReLU modules, each called once"
        ) from error


def _is_relu(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return type(root.get_submodule(node.target)) is nn.ReLU
    if node.op == "call_function":
        return node.target in RELU_FUNCTIONS
    return node.op == "call_method" and node.target in _RELU_METHODS


def _is_in_place(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return model.get_submodule(node.target).inplace
    if node.op == "call_function":
        inplace = node.args[1] if len(node.args) > 1 else node.kwargs.get("inplace", False)
        return node.target in INPLACE_RELU_FUNCTIONS or bool(inplace)
    return node.target == "relu_"


def _site_names(nodes: list[fx.Node], root: nn.Module) -> list[str]:
    """Path of the called module, or `relu` inside the module whose code calls it; `_1`, `_2` for later calls."""
    modules = [node.target for node in nodes if node.op == "call_module"]
    reserved = set(modules)
    taken: set[str] = set()
    names = []
    for node in nodes:
        wanted = node.target if node.op == "call_module" else ".".join(filter(None, [_owner(node), "relu"]))
        for name in _numbered(wanted):
            free = name not in taken and (name == wanted if name in reserved else not _exists(root, name))
            if free and (node.op == "call_module" or name not in reserved):
                break
        taken.add(name)
        names.append(name)
    return names


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1


def _owner(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0] if stack else ""


def _exists(root: nn.Module, path: str) -> bool:
    owner, _, attribute = path.rpartition(".")
    return hasattr(root.get_submodule(owner), attribute)


def _put_module(root: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, attribute = path.rpartition(".")
    root.get_submodule(owner).add_module(attribute, module)


def _call_site(graph: fx.Graph, node: fx.Node, name: str, in_place: bool) -> None:
    given = node.args[0] if node.args else node.kwargs["input"]
    with graph.inserting_after(node):
        site = graph.call_module(name, (given,))
    node.replace_all_uses_with(site)
    if in_place:
        # Whoever reads the input after an in-place call reads the activated values, also if the result is thrown away.
        later = _nodes_after(graph, site)
        given.replace_all_uses_with(site, delete_user_cb=lambda user: user in later)
    graph.erase_node(node)


def _nodes_after(graph: fx.Graph, node: fx.Node) -> set[fx.Node]:
    nodes = list(graph.nodes)
    return set(nodes[nodes.index(node) + 1 :])


def _restore_dropouts(graph: fx.Graph, root: nn.Module) -> None:
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _DROPOUTS:
            continue
        given = node.args[0] if node.args else node.kwargs["input"]
        rate = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        path = next(
            name for name in _numbered(".".join(filter(None, [_owner(node), "dropout"]))) if not _exists(root, name)
        )
        _put_module(root, path, _DROPOUTS[node.target](rate).eval())
        with graph.inserting_after(node):
            dropout = graph.call_module(path, (given,))
        node.replace_all_uses_with(dropout)
        graph.erase_node(node)
