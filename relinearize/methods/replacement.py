"""Replacements: what stands at the positions whose ReLU a search has removed, fitted once, before the fine-tuning.

The identity, which all three papers have, needs no fit. Affine, quadratic and cubic are Gaussian least-squares fits,
channel by channel: the first two are those of DaPa (AutoReP, ICCV 2023), the third goes a degree further. With z ~
N(mu, sigma^2), t = mu / sigma, phi and Phi the density and the distribution function of N(0, 1):

    affine      Phi(t) z + sigma phi(t)
    quadratic   phi(t) / (2 sigma) z^2 + (Phi(t) - t phi(t)) z + sigma phi(t) (1 + t^2) / 2
    cubic       -t phi(t) / (6 sigma^2) z^3 + phi(t) (1 + t^2) / (2 sigma) z^2 + (Phi(t) - t phi(t) (1 + t^2) / 2) z
                + sigma phi(t) (3 + t^4) / 6

They are the projections onto Hermite polynomials of u = (z - mu) / sigma, of which ReLU(z) = sigma max(u + t, 0) has
the coefficients sigma (t Phi(t) + phi(t)), sigma Phi(t), sigma phi(t) / 2 and -sigma t phi(t) / 6.

A replacement has

    images                                         training images that it wants
    coefficients(network, batches, seed)           {SITE.coefficients: float32 tensor}, see relu/replacement.py

network: pixels to logits, masked, the identity at removed positions; it is left as it is. batches: (pixels
N x C x H x W in [0, 1], labels int64 N) of at least `images` images, or of all that there are.
"""

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.data.loaders import by_size
from relinearize.errors import check_number
from relinearize.methods.scores import Batches, gradient_means, model_labels
from relinearize.relu.activation import ReplacedReLU
from relinearize.relu.replacement import COEFFICIENTS
from relinearize.relu.sites import named_sites, to_replaced
from relinearize.robustness.attack import in_eval_mode

# The least deviation of a channel, as a share of the largest at its site: a constant one has no curvature.
LEAST_DEVIATION = 0.01


class GaussianFit:
    """Per channel, of the mean and the deviation of the pre-activations at the removed positions.

    The sites are fitted one after the other in a single forward pass: each to what it is given by sites that are
    replaced already, as in the network that is left. With a continuation (polynomials.py) they are fitted to what ReLUs
    at the removed positions give. Settings: conf/replacement/quadratic.yaml.
    """

    heavy_tailed = False  # whether it is a polynomial of a degree above 1

    def __init__(
        self, images: int = 1024, error_weight: float = 0.0, continuation: float = 0.0, clip: float | None = None
    ) -> None:
        check_number("replacement.images", images, ">= 2", integer=True)
        check_number("replacement.error_weight", error_weight, ">= 0")
        check_number("replacement.continuation", continuation, ">= 0", "<= 1")
        check_number("replacement.clip", clip, "> 0", optional=True)
        self.images, self.error_weight, self.continuation, self.clip = images, error_weight, continuation, clip

    @property
    def held(self) -> bool:
        """Whether the network's polynomials are held while it trains: see polynomials.py."""
        return bool(self.error_weight or self.continuation or self.heavy_tailed)

    @staticmethod
    def fitted(mean: Tensor, deviation: Tensor) -> Tensor:
        """The coefficients, K x C, for pre-activations of N(mean, deviation^2); both of C channels."""
        raise NotImplementedError

    def at_site(self, name: str, mean: Tensor, deviation: Tensor) -> Tensor:
        """`fitted`, of the site `name`."""
        return self.fitted(mean, deviation)

    def coefficients(self, network: nn.Module, batches: Batches, seed: int) -> dict[str, Tensor]:
        network = copy.deepcopy(network)
        inner = inner_network(network)
        sites = named_sites(inner)
        # Any number of coefficients: they are exchanged before the site computes.
        others = {name: site for name, site in sites.items() if not isinstance(site, ReplacedReLU)}
        to_replaced(inner, {f"{name}.{COEFFICIENTS}": torch.ones(1, *site.mask.shape) for name, site in others.items()})

        def fit(name: str, site: ReplacedReLU, inputs: tuple[Tensor, ...]) -> None:
            values = self.at_site(name, *moments(inputs[0], ~site.mask))
            site.coefficients = values.reshape(*values.shape, *[1] * (site.mask.dim() - 1))

        for name, site in named_sites(inner).items():
            site.register_forward_pre_hook(partial(fit, name))
            if self.continuation:
                site.register_forward_hook(lambda site, inputs, output: inputs[0].relu())
        taken, wanted = [], math.inf
        for images, _ in batches:  # no more than are wanted: large ones are decoded one by one
            wanted = max(2, by_size(self.images, images.shape[-1]))
            taken.append(images)
            if sum(map(len, taken)) >= wanted:
                break
        with torch.no_grad(), in_eval_mode(network):
            network(torch.cat(taken)[:wanted])
        return {f"{name}.{COEFFICIENTS}": site.coefficients for name, site in named_sites(inner).items()}


class Affine(GaussianFit):
    """`replacement=affine`: a slope and an intercept per channel."""

    @staticmethod
    def fitted(mean: Tensor, deviation: Tensor) -> Tensor:
        t = mean / deviation
        return torch.stack([torch.special.ndtr(t), deviation * density(t)])


class Quadratic(GaussianFit):
    """`replacement=quadratic`: a polynomial of degree 2 per channel."""

    heavy_tailed = True

    @staticmethod
    def fitted(mean: Tensor, deviation: Tensor) -> Tensor:
        t = mean / deviation
        slope = torch.special.ndtr(t) - t * density(t)
        return torch.stack([slope, deviation * density(t) * (1 + t**2) / 2, density(t) / (2 * deviation)])


class Cubic(GaussianFit):
    """`replacement=cubic`: a polynomial of degree 3 per channel."""

    heavy_tailed = True

    @staticmethod
    def fitted(mean: Tensor, deviation: Tensor) -> Tensor:
        t = mean / deviation
        slope = torch.special.ndtr(t) - t * density(t) * (1 + t**2) / 2
        intercept = deviation * density(t) * (3 + t**4) / 6
        curvature = density(t) * (1 + t**2) / (2 * deviation)
        return torch.stack([slope, intercept, curvature, -t * density(t) / (6 * deviation**2)])


class Zero:
    """`replacement=zero`: each removed position is 0 or the identity, whichever does less damage.

    With v the change of a position's output, g d for the identity and -g relu(z) for 0, the damage is E[v^2] / 2, as in
    the score `fisher`. Of equals the identity stays.

    Args:
        images: training images for the damages.
    """

    def __init__(self, images: int = 4096) -> None:
        check_number("replacement.images", images, ">= 1", integer=True)
        self.images = images

    def coefficients(self, network: nn.Module, batches: Batches, seed: int) -> dict[str, Tensor]:
        def saved(z: Tensor, g: Tensor) -> Tensor:
            return ((g * z.clamp(max=0)).square() - (g * z.relu()).square()) / 2

        sites = named_sites(inner_network(network))
        by_zero = gradient_means(network, batches, saved, model_labels(seed))
        stays = {name: sites[name].mask | (difference <= 0) for name, difference in by_zero.items()}
        return {f"{name}.{COEFFICIENTS}": linear.float()[None] for name, linear in stays.items()}


def moments(z: Tensor, removed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of `z` (N x C x ...) over images and the `removed` positions (C x ..., bool).

    A channel without any has mean 0; deviations are at least LEAST_DEVIATION of the site's largest, 1 where all are 0.
    """
    dims = [0, *range(2, z.dim())]
    count = (removed.reshape(len(removed), -1).sum(1) * len(z)).clamp(min=1)
    mean = (z * removed).sum(dims) / count
    away = (z - mean.view(-1, *[1] * (z.dim() - 2))) * removed
    deviation = (away.square().sum(dims) / count).sqrt()
    least = LEAST_DEVIATION * deviation.max()
    return mean, deviation.clamp(min=least) if least else torch.ones_like(deviation)


def density(t: Tensor) -> Tensor:
    """Of N(0, 1)."""
    return (-t.square() / 2).exp() / math.sqrt(2 * math.pi)
