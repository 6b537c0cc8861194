"""AutoReP (Peng et al., ICCV 2023) with the identity as replacement: a learned gate with hysteresis at every position.

A position is a ReLU while its state m is 1 and the identity while it is 0: y = m relu(z) + (1 - m) z. The state follows
a trained gate w, which starts at U(0, 1) and all states at 1:

    m <- m [w > -h] + (1 - m) [w > h]         before every step; h is the width of the hysteresis
    dL/dw = softplus(w) dL/dm                 in place of the derivative, which is 0

Adam trains weights and gates jointly on L = CE + T^2 KL + lambda max(0, density - B / N), density the mean of all m.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from relinearize.backbones.adapter import inner_network
from relinearize.data.order import seeded_generator
from relinearize.methods.masked_search import MaskedSearch
from relinearize.methods.stage.schedule import adam
from relinearize.methods.stage.snapshot import Snapshot, count_columns, without_alphas
from relinearize.relu.activation import SlopedReLU
from relinearize.relu.budget import kept_first, top_mask
from relinearize.relu.mask import Mask
from relinearize.relu.sites import named_sites, to_sloped

CLOSE = 0.01  # share of all ReLUs above the budget at which the search counts as done, about that of the released code


class GatedReLU(SlopedReLU):
    """y = m relu(x) + (1 - m) x with a state m of 0 or 1 for each position; `alpha` is the gate w that m follows.

    `kept` is m, a float buffer of `shape`, 1 at first. It is not part of the state dict.
    """

    kept: Tensor

    def __init__(self, shape: Any, index: int = 0) -> None:
        super().__init__(shape, index)
        self.register_buffer("kept", torch.ones(tuple(shape)), persistent=False)

    @property
    def slope(self) -> Tensor:
        """m, with the gradient softplus(w) for w."""
        return self.kept + F.softplus(self.alpha).detach() * (self.alpha - self.alpha.detach())

    @torch.no_grad()
    def follow(self, hysteresis: float) -> None:
        """Let m follow w: up above the hysteresis, down at minus the hysteresis and below, else as it was."""
        self.kept.copy_(torch.where(self.kept > 0, self.alpha > -hysteresis, self.alpha > hysteresis))


class AutoReP(MaskedSearch):
    """The search stage of AutoReP, for one budget. Settings: conf/method/search/autorep.yaml.

    Args:
        network, teacher: see MaskedSearch; the network's sites become GatedReLU.
        budget: met exactly by projection at the end: kept positions first, then by gate.
    """

    UNUSED = ("momentum", "weight_decay")  # of Adam

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        penalty: float = 40.0,
        hysteresis: float = 0.003,
        gate_learning_rate: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(network, teacher, **settings)
        self.take("> 0", penalty=penalty)
        self.take(">= 0", hysteresis=hysteresis)
        self.take("> 0", optional=True, gate_learning_rate=gate_learning_rate)
        to_sloped(inner_network(network), GatedReLU)
        self.sites: dict[str, GatedReLU] = named_sites(inner_network(network))
        self.total = sum(site.kept.numel() for site in self.sites.values())

    def use(self, *, seed: int, **settings: Any) -> None:
        """Gates are drawn from U(0, 1), a function of `seed`."""
        super().use(seed=seed, **settings)
        generator = seeded_generator("gates", seed)
        with torch.no_grad():
            for site in self.sites.values():
                site.alpha.copy_(torch.rand(site.alpha.shape, generator=generator))

    def follow(self) -> None:
        for site in self.sites.values():
            site.follow(self.hysteresis)

    @property
    def density(self) -> Tensor:
        """The share of the positions that are kept, with its gradient for the gates."""
        return torch.stack([site.slope.sum() for site in self.sites.values()]).sum() / self.total

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.follow()
        loss, metrics = super().loss(images, labels)
        return loss + self.penalty * (self.density - self.budget / self.total).clamp(min=0), metrics

    def configure_optimizers(self) -> optim.Optimizer:
        gates = [site.alpha for site in self.sites.values()]
        return adam(self.network, gates, self.base_learning_rate, self.gate_learning_rate)

    @property
    def mask(self) -> Mask:
        return Mask({name: site.kept > 0 for name, site in self.sites.items()})

    def put_on(self, mask: Mask) -> None:
        for name, site in self.sites.items():
            site.kept.copy_(mask[name])

    def segment_end(self, last_of_epoch: bool) -> None:
        self.follow()

    def snapshot(self) -> Snapshot:
        """The projection of the last state, with the weights of that moment."""
        gates = {name: site.alpha.detach().cpu() for name, site in self.sites.items()}
        kept = self.mask
        scores = kept_first(gates, kept)
        mask = top_mask(scores, self.budget)
        weights = without_alphas(self.weights(), self.sites)
        reached = kept.count <= self.budget + CLOSE * self.total
        history = [*self.history, {"epoch": float(len(self.history)), **count_columns(mask.counts)}]
        return Snapshot(self.budget, mask, weights, reached, self.seconds, history, scores)
