"""What an attack of a training step needs of a network: one route in eval mode, differentiated for the images only.

In eval mode a batch norm is a factor and an offset per channel, which the convolution before it can carry. A step of
PGD-7 runs seven times forward and backward on the same weights, so these are folded once a step and each pass is
spared the batch norms, two more passes over memory each way.
"""

import torch
from torch import fx, nn

from relinearize.backbones.adapter import inner_network
from relinearize.backbones.routes import RoutedBatchNorm, export_route
from relinearize.methods.frozen import frozen_copy
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.sites import named_sites

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class FoldedRoute:
    """A folded copy of a route of `source` that follows its weights, statistics and masks when told to.

    `network` (pixels to logits, eval mode, no gradients of parameters) answers as `source` in eval mode on `route`, up
    to rounding, as of the last `follow()`. Build it before hooks are registered on `source`, which copies would share.

    Args:
        source: linearized or not, with routes or (route "clean") without.
        masks_change: whether masks of `source` may change later; if not, full ones become plain ReLUs.
    """

    def __init__(self, source: nn.Module, route: str, masks_change: bool) -> None:
        exported = export_route(source, route)
        if masks_change:  # a mask with a hole stays a mask
            for site in named_sites(inner_network(exported)).values():
                site.mask.view(-1)[0] = False
        self.network = frozen_copy(exported)
        before = _convolution_before(exported, self.network)
        modules = dict(source.named_modules())
        self._folded: list[tuple[nn.Module, nn.Module, nn.Module]] = []  # convolution and norm of source; ours
        self._copied: list[tuple[nn.Module, nn.Module]] = []  # of source; ours
        for path, ours in self.network.named_modules():
            theirs = modules[path]
            if path in before:
                convolution = before[path]
                norm = _on_route(theirs, route)
                self._folded.append((modules[convolution], norm, self.network.get_submodule(convolution)))
            elif path not in before.values() and not isinstance(ours, nn.Identity):
                self._copied.append((_on_route(theirs, route), ours))
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Take over what `source` is now."""
        for convolution, norm, ours in self._folded:
            factor = (norm.running_var + norm.eps).rsqrt()
            if norm.weight is not None:
                factor = factor * norm.weight
            offset = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
            offset = offset * factor if norm.bias is None else torch.addcmul(norm.bias, offset, factor)
            ours.weight.copy_(convolution.weight * factor.view(-1, *[1] * (convolution.weight.dim() - 1)))
            ours.bias.copy_(offset)
        for theirs, ours in self._copied:
            for name, tensor in (*ours.named_parameters(recurse=False), *ours.named_buffers(recurse=False)):
                tensor.copy_(getattr(theirs, name))


def _on_route(module: nn.Module, route: str) -> nn.Module:
    return getattr(module, route) if isinstance(module, RoutedBatchNorm) else module


class _SitesAsLeaves(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, MaskedReLU) or super().is_leaf_module(module, name)


def _convolution_before(network: nn.Module, folded: nn.Module) -> dict[str, str]:
    """Batch norm of `network` that its frozen copy `folded` has no more -> the layer that carries it there."""
    kept = dict(folded.named_modules(remove_duplicate=False))
    gone = {name for name, module in network.named_modules() if isinstance(module, NORMS) and not _is_norm(kept[name])}
    if not gone:
        return {}  # perhaps a network that torch.fx cannot follow
    nodes = _SitesAsLeaves().trace(network).nodes
    return {node.target: node.args[0].target for node in nodes if node.op == "call_module" and node.target in gone}


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, NORMS)
