"""The teacher as it is used after stage 0: it only answers, so what training needs of it can be left out.

In eval mode a batch norm is one factor and one offset per channel, which the convolution before it can carry; and a
site whose mask is full is a plain ReLU. The answers stay the same up to rounding, each image costs fewer passes over
memory.
"""

import copy
import operator
from collections import Counter

import torch
from torch import fx, nn

from relinearize.relu.activation import MaskedReLU


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy of `network` in eval mode, without gradients, with what only training needs folded away.

    Batch norms that directly follow a convolution are folded into it and full masks become nn.ReLU. Module names stay
    (a folded batch norm is an nn.Identity). A network that torch.fx cannot follow is copied as it is. For inference
    only: its state dict is no longer that of `network`.
    """
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    graph = _graph(frozen)
    if graph is None:
        return frozen
    modules = dict(frozen.named_modules(remove_duplicate=False))
    shared = {module for module, count in Counter(modules.values()).items() if count > 1}
    calls = [node for node in graph.nodes if node.op == "call_module"]
    called = [node.target for node in calls]
    for node in calls:
        source = node.args[0] if node.args else None
        if called.count(node.target) > 1 or not isinstance(source, fx.Node):
            continue
        module, only_use = modules[node.target], len(source.users) == 1
        if module in shared:
            continue
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and source.op == "call_module":
            before = modules[source.target]
            called_once = called.count(source.target) == 1 and before not in shared
            if only_use and called_once and _foldable(before, module):
                _fold(before, module)
                frozen.set_submodule(node.target, nn.Identity())
        elif isinstance(module, MaskedReLU) and bool(module.mask.all()):
            frozen.set_submodule(node.target, nn.ReLU(inplace=only_use and _makes_a_new_tensor(source, modules)))
    return frozen


class _SitesAsLeaves(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, MaskedReLU) or super().is_leaf_module(module, name)


def _graph(network: nn.Module) -> fx.Graph | None:
    try:
        return _SitesAsLeaves().trace(network)
    except Exception:  # whatever a user's forward does to a symbolic tensor: folding is a matter of speed only
        return None


def _foldable(convolution: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    plain = type(convolution) in (nn.Conv2d, nn.Linear)  # a parametrized one is of another class
    return (
        plain
        and not convolution._forward_hooks
        and not convolution._forward_pre_hooks
        and norm.running_mean is not None
        and norm.num_features == convolution.weight.shape[0]
    )


def _fold(convolution: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """norm(conv(x)) = factor * conv(x) + offset, written into the weights; in float64, rounded once."""
    weight, bias = convolution.weight, convolution.bias
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    offset = (0 if bias is None else bias.double()) - norm.running_mean.double()
    offset = offset * factor + (0 if norm.bias is None else norm.bias.double())
    scaled = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
    convolution.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=False)


def _makes_a_new_tensor(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the result of `node` shares no memory with anything else, so that it may be overwritten."""
    if node.op == "call_module":
        return isinstance(modules[node.target], nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d)
    return node.op == "call_function" and node.target in (operator.add, torch.add)
