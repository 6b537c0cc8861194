"""Polynomials at removed positions, held while the weights around them are trained.

In weights that were trained with ReLUs they do not last. A quadratic grows with the square of what it is given, the
next one is given more than it was fitted to, and from layer to layer activations grow without bounds: the escaping
activations of Garimella et al. (Sisyphus, 2021). Two things hold them here, in training steps only:

- They come in slowly: (1 - t) relu(z) + t p(z), with t from 0 to 1 in the first part of the training, as from one model
  to another.
- The loss gets a term, summed over the sites, of the polynomial's error where the pre-activations lie,

      log(1 + E[(p(z) - relu(z))^2] / E[z^2]),

  over the images and positions of a batch, the denominator without a gradient; the logarithm, so that one which escaped
  does not drown the others. Diaa et al. (PILLAR, 2024) penalise pre-activations beyond given bounds instead.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.backbones.batch_norm import NORMS
from relinearize.relu.activation import ReplacedReLU
from relinearize.relu.kernels import rows
from relinearize.relu.sites import named_sites


class HeldPolynomials:
    """Hooks on the sites of `network` that do nothing outside of `step()`.

    Args:
        network: as it will be trained, with ReplacedReLU at its sites, not compiled yet.
        error_weight: of the error in the loss.
        continuation: share of the training in which removed positions become polynomials; 0: at once.
    """

    def __init__(self, network: nn.Module, error_weight: float, continuation: float) -> None:
        self.error_weight, self.continuation = error_weight, continuation
        self.errors: dict[str, list[Tensor]] = {}  # of each site in the last step, a pass each, with their graphs
        self.on = False
        self.coming = False  # whether t is below 1
        self.progress = torch.ones(())  # t; a tensor, so that a compiled step stays what it is
        self._hook(network, True)

    def lead(self, network: nn.Module) -> None:
        """Let the polynomials of `network`, a copy of the trained one that an attack looks at, come in with it."""
        self._hook(network, False)

    def _hook(self, network: nn.Module, counts: bool) -> None:
        """`counts`: whether errors are those of the loss. First of all hooks: others see what a site puts out."""
        for name, site in named_sites(inner_network(network)).items():
            if isinstance(site, ReplacedReLU):
                site.register_forward_hook(self.hook(name, counts), prepend=True)

    @contextmanager
    def step(self, share: float, device: torch.device) -> Iterator[None]:
        """The forward passes of one training step, at `share` of the training."""
        progress = min(1.0, share / self.continuation) if self.continuation else 1.0
        self.progress = self.progress.to(device).fill_(progress)
        self.coming = progress < 1
        self.errors.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def hook(self, name: str, counts: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def held(site: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            counted = counts and self.error_weight
            if not self.on or not (counted or self.coming):
                return None
            relu = inputs[0].relu()
            if counted:
                scale = sum_of_squares(inputs[0].detach()).clamp(min=1e-12)
                self.errors.setdefault(name, []).append(torch.log1p(sum_of_squares(output - relu) / scale))
            return torch.lerp(relu, output, self.progress.to(output.dtype)) if self.coming else None

        return held

    @property
    def error(self) -> Tensor:
        """The sum over the sites of the mean over their passes in the last step, a scalar with its graph.

        A network of several routes or widths makes a pass for each. There is none without a weight.
        """
        return torch.stack([torch.stack(passes).mean() for passes in self.errors.values()]).sum()


@torch.no_grad()
def median_norms(batches: Iterable[tuple[Tensor, ...]], network: nn.Module) -> None:
    """Batch-norm statistics of `network`: of each channel the median over batches of mean and variance.

    Polynomials have heavy tails: a single image of which activations escape has more weight in a mean than all others
    together, and would spoil the network for all. So would running means. NaN counts for nothing.
    """
    norms = [norm for norm in network.modules() if isinstance(norm, NORMS) and norm.track_running_stats]
    momenta, seen, mode = [norm.momentum for norm in norms], [[] for _ in norms], network.training
    for norm in norms:
        norm.momentum = 1.0  # running statistics are those of the last batch
    network.train()
    for images, *_ in batches:
        for norm in norms:
            norm.reset_running_stats()  # NaN would stay
        network(images)
        for norm, statistics in zip(norms, seen, strict=True):
            statistics.append(torch.stack([norm.running_mean, norm.running_var]))
    for norm, statistics, momentum in zip(norms, seen, momenta, strict=True):
        norm.running_mean, norm.running_var = torch.stack(statistics).nanmedian(0).values
        norm.momentum = momentum
    network.train(mode)


def sum_of_squares(x: Tensor) -> Tensor:
    """Of N x C x H x W, in float32. A mean's gradient would not lie in memory as `x` does, and slow the rest."""
    values = rows(x.float()).flatten()
    return torch.dot(values, values)
