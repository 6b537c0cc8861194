"""Computed sensitivities: train the all-ReLU network sparse and look at the density of each layer.

SENet (Kundu et al., ICLR 2023) calls a site sensitive whose layer tolerates pruning: with d_l the density of its layer
after sparse learning to a small global density d, eta_l = 1 - d_l (this form, and d = 0.1, are remembered: unverified).
How the official lists were computed is not released.

Ours is dynamic pruning with feedback (Lin et al., ICLR 2020): the mask is the global top d of the magnitudes, over all
layers together, and is updated at the start of each segment; the dense weights are kept and receive the gradient
taken at the pruned ones (w <- w - rate * gradient(mask * w)), so a weight that was pruned too early grows back. The
density falls from 1 to d on a cubic (Zhu and Gupta 2017). Chosen because nothing fixes a layer's density: it settles
where the magnitudes want it, which is what eta reads. RigL keeps the layer densities that it was given; sparse
momentum (Dettmers and Zettlemoyer 2019) redistributes them by a second rule of its own; ADMM (Zhang et al., ECCV 2018)
wants a density per layer as input, or two more optimization variables per weight for a global one.

Magnitudes are compared as they are. He initialisation and weight decay leave smaller weights in wider layers, so that
the density falls with depth, as in the released lists; much of the order is there before any training. Magnitudes times
the factor of the batch norm behind them agree less with these lists (rank correlation 0.81 against 0.995 on a trained
ResNet-18 of width 16).
"""

import copy
import math
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from relinearize.backbones.adapter import inner_network
from relinearize.data.loaders import TrainLoader
from relinearize.errors import UserError
from relinearize.methods.teacher import Classifier
from relinearize.relu.budget import top_positions
from relinearize.relu.sites import named_sites
from relinearize.robustness.attack import in_eval_mode

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def site_layers(network: nn.Module, sample: Tensor, direct: bool = False) -> dict[str, str]:
    """Site -> the layer (convolution or linear) in front of it, both by their names in the inner network.

    Of the layers that run between the previous site and this one, it is that with the most weights (among equals the
    earlier); with `direct`, of those whose filters are the site's channels, each by itself. Shortcuts are left out:
    layers that read what a layer before the previous site has read. A site without a layer of its own gets the previous
    site's (the first ones: the next site's). Found by running `sample` (N x C x H x W, pixels) once, in eval mode.

    Raises UserError where no layer leads into any site.
    """
    if direct:
        network = copy.deepcopy(network)
    inner = inner_network(network)
    found: dict[str, str] = {}
    since: list[tuple[str, Tensor, torch.UntypedStorage]] = []  # since the last site: name, weight, what was read
    read: list[torch.UntypedStorage] = []  # by layers before it; held, so that none of the memory is used again

    def saw_layer(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        since.append((name, layer.weight, inputs[0].untyped_storage()))

    def saw_site(name: str, site: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before = {storage.data_ptr() for storage in read}
        candidates = [entry for entry in since if entry[2].data_ptr() not in before] or since
        if direct:
            candidates = [entry for entry in candidates if gives_channels(entry[1], inputs[0])]
        if candidates:
            found[name] = max(candidates, key=lambda entry: entry[1].numel())[0]
        elif found:
            found[name] = found[next(reversed(found))]
        read.extend(entry[2] for entry in since)
        since.clear()

    sites = named_sites(inner)
    with ExitStack() as hooks, torch.set_grad_enabled(direct), in_eval_mode(network):
        if direct:
            network.requires_grad_()
        for name, module in inner.named_modules():
            if isinstance(module, LAYERS):
                hooks.enter_context(module.register_forward_hook(partial(saw_layer, name)))
        for name, site in sites.items():
            hooks.enter_context(site.register_forward_hook(partial(saw_site, name)))
        network(sample)
    if not found:
        raise UserError("no convolution or linear layer leads into any site, so sensitivity=computed has no densities")
    first = next(iter(found.values()))
    return {name: found.get(name, first) for name in sites}


def gives_channels(weight: Tensor, z: Tensor) -> bool:
    """Whether filter c of a layer's `weight` acts on channel c of `z` (N x C x ...) alone; shown for the last one."""
    (gradient,) = torch.autograd.grad(z[:, -1].sum(), weight, retain_graph=True, allow_unused=True)
    return gradient is not None and len(weight) == z.shape[1] and not gradient[:-1].any()


def density_after(progress: float, density: float) -> float:
    """1 - s of Zhu and Gupta's cubic: 1 at `progress` 0, `density` from 1 on."""
    return density + (1 - density) * (1 - min(progress, 1.0)) ** 3


class PrunedWeight(nn.Module):
    """A parametrization: weight -> kept * weight, whose gradient goes to the dense weight as it is (straight through).

    `kept` is a bool buffer of the weight's shape, all true at first, part of the state dict.
    """

    kept: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        # Exact in floating point: w + (w - w) = w and w + (0 - w) = 0.
        return weight + (weight * self.kept - weight).detach()


class SparseTraining(Classifier):
    """Sparse learning of the all-ReLU network, for the densities of its layers.

    Pruned are the layers in front of sites (see `site_layers`); shortcuts and the classifier stay dense. `network`:
    all-ReLU; starts from the teacher's weights. Only the end has the final density, hence the `selection` "last".
    Settings: conf/sensitivity/computed.yaml.

    `use` runs the network once, to see which layers lead into which sites.
    """

    name = "sensitivity"
    segments_key = "updates_per_epoch"
    config_group = ""

    def __init__(
        self,
        network: nn.Module,
        *,
        density: float = 0.1,
        pruning_share: float = 0.5,
        updates_per_epoch: int = 4,
        **stage_settings: Any,
    ) -> None:
        super().__init__(network, segments=updates_per_epoch, selection="last", **stage_settings)
        self.take("> 0", "< 1", density=density)
        self.take("> 0", "<= 1", pruning_share=pruning_share)
        self.layers: dict[str, str] = {}
        self.pruned: dict[str, nn.Module] = {}

    # ---- the set-up ------------------------------------------------------------------------------------------------

    def use(self, *, train_loader: TrainLoader, **rest: Any) -> None:
        super().use(train_loader=train_loader, **rest)
        train_loader.seek(0, 0)
        images, _ = next(iter(train_loader))
        example = next(self.network.parameters())
        self.prepare(images[:1].to(device=example.device, dtype=example.dtype))

    def prepare(self, sample: Tensor) -> None:
        """Find the layers to prune by running `sample` (1 x C x H x W) and make their weights prunable, once."""
        if self.layers:
            return
        self.layers = site_layers(self.network, sample)
        for name, layer in self.prunable(self.layers).items():
            parametrize.register_parametrization(layer, "weight", PrunedWeight(layer.weight))
            self.pruned[name] = layer

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        super().rehearse(images, labels)
        self.prunable(site_layers(self.network, images[:1]))

    def prunable(self, layers: Mapping[str, str]) -> dict[str, nn.Module]:
        """The layers in front of the sites by name. UserError for one whose weight is no parameter of its own."""
        inner = inner_network(self.network)
        found = {name: inner.get_submodule(name) for name in dict.fromkeys(layers.values())}
        for name, layer in found.items():
            if "weight" not in layer._parameters:
                raise UserError(
                    f"sensitivity=computed prunes the weight of {name}, which is computed from others (by weight or "
                    "spectral norm, or pruning); give other sensitivities (sensitivity=fisher, say)"
                )
        return found

    # ---- training --------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        # At the start and not at the end of a segment, so that what is tested is what was trained.
        super().on_train_epoch_start()
        self.prune(self.current_epoch)

    def prune(self, segment: int) -> None:
        """Update the mask for `segment` (from 0, over all epochs): a function of it and of the dense weights."""
        steps = max(1, math.ceil(self.pruning_share * self.epochs * self.segments))
        share = density_after((segment + 1) / steps, self.density)
        dense = {name: layer.parametrizations.weight.original for name, layer in self.pruned.items()}
        count = max(1, round(share * sum(weight.numel() for weight in dense.values())))
        for name, kept in top_positions({name: weight.abs() for name, weight in dense.items()}, count).items():
            self.pruned[name].parametrizations.weight[0].kept.copy_(kept)

    def epoch_end(self, row: dict[str, float]) -> None:
        kept = sum(int(layer.parametrizations.weight[0].kept.sum()) for layer in self.pruned.values())
        row["density"] = kept / sum(layer.parametrizations.weight[0].kept.numel() for layer in self.pruned.values())

    # ---- the result ------------------------------------------------------------------------------------------------

    def densities(self) -> dict[str, float]:
        """Layer -> the share of its weights that is kept now, in forward order."""
        return {
            name: layer.parametrizations.weight[0].kept.double().mean().item() for name, layer in self.pruned.items()
        }

    def sensitivities(self) -> dict[str, float]:
        """Site -> eta = 1 - d of the layer in front of it, in forward order."""
        densities = self.densities()
        return {site: 1 - densities[layer] for site, layer in self.layers.items()}

    def weights(self) -> dict[str, Tensor]:
        """The pruned weights, under the backbone's own names, so that an ordinary network takes them."""
        result = {}
        for key, value in super().weights().items():
            layer, found, part = key.partition(".parametrizations.weight.")
            if not found:
                result[key] = value
            elif part == "original":
                result[f"{layer}.weight"] = self.pruned[layer].weight.detach().cpu().clone()
        return result
