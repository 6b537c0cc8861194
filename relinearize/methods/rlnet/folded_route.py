"""What an attack of a training step needs of a network: one route in eval mode, differentiated for the images only.

In eval mode a batch norm is a factor and an offset per channel, which the convolution before it can carry. A step of
PGD-7 runs seven times forward and backward on the same weights, so these are folded once a step and each pass is
spared the batch norms, two more passes over memory each way.
"""

import torch
from torch import nn

from relinearize.backbones.adapter import inner_network
from relinearize.backbones.batch_norm import folded
from relinearize.backbones.routes import RoutedBatchNorm, export_route
from relinearize.methods.frozen import SingleCalls, frozen_copy
from relinearize.relu.sites import named_sites


class FoldedRoute:
    """A folded copy of a route of `source` that follows its weights, statistics and masks when told to.

    `network` (pixels to logits, eval mode, no gradients of parameters) has the outputs of `source` in eval mode on
    `route`, up to rounding, as of the last `follow()`. Build it before hooks are registered on `source`: copies would
    share them.

    Args:
        source: linearized or not, with routes or (route "clean") without.
        masks_change: whether masks of `source` may change later; if not, full ones become plain ReLUs.
    """

    def __init__(self, source: nn.Module, route: str, masks_change: bool) -> None:
        exported = export_route(source, route).eval()  # traced below as frozen_copy traces it
        if masks_change:  # a mask with a hole stays a mask
            for site in named_sites(inner_network(exported)).values():
                site.mask.view(-1)[0] = False
        self.network = frozen_copy(exported)
        layer_of_norm = SingleCalls(exported).layer_of_norm
        modules = dict(source.named_modules())
        self._folded: list[tuple[nn.Module, nn.Module, nn.Module]] = []  # layer and norm of source; ours
        self._copied: list[tuple[nn.Module, nn.Module]] = []  # of source; ours
        for path, ours in self.network.named_modules():
            theirs = modules[path]
            if path in layer_of_norm:
                layer = layer_of_norm[path]
                self._folded.append((modules[layer], _on_route(theirs, route), self.network.get_submodule(layer)))
            elif path not in layer_of_norm.values() and not isinstance(ours, nn.Identity):
                self._copied.append((_on_route(theirs, route), ours))
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Take over what `source` is now."""
        for layer, norm, ours in self._folded:
            for tensor, value in zip((ours.weight, ours.bias), folded(layer.weight, layer.bias, norm), strict=True):
                tensor.copy_(value)
        for theirs, ours in self._copied:
            for name, tensor in (*ours.named_parameters(recurse=False), *ours.named_buffers(recurse=False)):
                tensor.copy_(getattr(theirs, name))


def _on_route(module: nn.Module, route: str) -> nn.Module:
    return getattr(module, route) if isinstance(module, RoutedBatchNorm) else module
