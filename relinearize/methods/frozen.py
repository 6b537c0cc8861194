"""The teacher after stage 0: it is only evaluated, so what training alone needs of it can be left out.

In eval mode a batch norm is one factor and one offset per channel, which the convolution before it can carry; and a
site whose mask is full is a plain ReLU. The outputs stay the same up to rounding, each image costs fewer passes over
memory.
"""

import copy
import operator
from collections import Counter

import torch
from torch import fx, nn

from relinearize.backbones.batch_norm import NORMS, folded
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.tracing import ForOneImage


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of `network` in eval mode, without gradients, with what only training needs folded away.

    Batch norms that directly follow a convolution are folded into it and full masks become nn.ReLU. Module names stay
    (a folded batch norm is an nn.Identity). A network that torch.fx cannot follow is copied as it is. For inference
    only: its state dict is no longer that of `network`.
    """
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    calls = SingleCalls(frozen)
    for norm, layer in calls.layer_of_norm.items():
        carrier = frozen.get_submodule(layer)
        bias = None if carrier.bias is None else carrier.bias.double()  # in float64, rounded once
        folding = folded(carrier.weight.double(), bias, frozen.get_submodule(norm))
        carrier.weight, carrier.bias = (
            nn.Parameter(tensor.to(carrier.weight.dtype), requires_grad=False) for tensor in folding
        )
        frozen.set_submodule(norm, nn.Identity())
    for site, in_place in calls.sites.items():
        if bool(frozen.get_submodule(site).mask.all()):
            frozen.set_submodule(site, nn.ReLU(inplace=in_place))
    return frozen


class SingleCalls:
    """The modules that a network calls once and holds under one name, as far as a frozen copy replaces them.

    layer_of_norm: path of a batch norm -> that of the convolution or linear layer before it, which feeds nothing else.
    sites: path of a masked ReLU -> whether it may overwrite its input.
    Both are empty for a network that torch.fx cannot follow.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layer_of_norm: dict[str, str] = {}
        self.sites: dict[str, bool] = {}
        modules = dict(network.named_modules(remove_duplicate=False))
        names = Counter(modules.values())
        try:
            graph = ForOneImage().graph_of(network)
        except Exception:  # whatever a user's forward does to a symbolic tensor: folding is a matter of speed only
            return
        called = Counter(node.target for node in graph.nodes if node.op == "call_module")
        single = {path for path, count in called.items() if count == 1 and names[modules[path]] == 1}
        single -= {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}  # read beside calls
        for node in graph.nodes:
            source = node.args[0] if node.args else None
            if node.op != "call_module" or node.target not in single or not isinstance(source, fx.Node):
                continue
            module, only_use = modules[node.target], len(source.users) == 1
            if isinstance(module, MaskedReLU):
                self.sites[node.target] = only_use and _makes_a_new_tensor(source, modules)
            elif isinstance(module, NORMS) and only_use and source.op == "call_module":
                layer = modules[source.target]
                if source.target in single and _foldable(layer, module):
                    self.layer_of_norm[node.target] = source.target


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    return (
        type(layer) in (nn.Conv2d, nn.Linear)  # a parametrized one is of another class
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and norm.running_mean is not None
        and norm.num_features == layer.weight.shape[0]
    )


def _makes_a_new_tensor(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the result of `node` shares no memory with anything else, so that it may be overwritten."""
    if node.op == "call_module":
        return isinstance(modules[node.target], (nn.Conv2d, nn.Linear, *NORMS))
    if node.op != "call_function" or node.target not in (operator.add, torch.add) or node.kwargs:
        return False
    # fx sees `out += skip` as `out + skip`, too: its result is the memory of `out`, which nothing else may read.
    first = node.args[0]
    return isinstance(first, fx.Node) and len(first.users) == 1 and _makes_a_new_tensor(first, modules)
