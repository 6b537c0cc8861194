"""Robust accuracy under PGD-20: ours against torchattacks, both in float32 on the same network.

Ours attacks no image that is wrong already, and goes on only with those that are still right, so how much it saves
depends on how many these are. "robust": four of five images are right and half of all survive, about what adversarially
trained networks of CIFAR-10 reach; the labels and epsilon are chosen so. "all survive": there is nothing to save.
"folded": the network with its batch norms in its convolutions.
"""

from collections.abc import Callable, Iterator

import torch
import torchattacks
from torch import Tensor, nn

from bench.common import Row, Settings, interleaved
from bench.steps import batch_of, network_of
from relinearize.errors import LEAST_RADIUS
from relinearize.methods.frozen import frozen_copy
from relinearize.robustness.attacks import PGD, attacked_batch, logits_of

STEPS = 20
PROMISE = ">= 1.5"
SEARCHED = 32  # images by which the epsilon is found


def measure(settings: Settings, device: str = "cpu") -> Iterator[Row]:
    """Images a second of each, and how many times those of torchattacks."""
    network, plain = (network_of(settings.width).eval().to(device) for _ in range(2))
    folded = frozen_copy(network).to(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)
    images, _ = batch_of(settings.batch, device)
    right = logits_of(network, images).argmax(1)
    some_wrong = torch.where(torch.arange(len(right), device=device) % 5 == 0, (right + 1) % 10, right)
    half = halving_epsilon(network, images[:SEARCHED], some_wrong[:SEARCHED])
    for name, labels, epsilon in (("robust", some_wrong, half), ("all survive", right, LEAST_RADIUS)):
        case = f"{name}, resnet18 width {settings.width}, batch {settings.batch}, 32, {device}"
        variants = {
            "torchattacks": theirs(plain, images.contiguous(), labels, epsilon),
            "ours": ours(network, images, labels, epsilon),
            "ours, folded": ours(folded, images, labels, epsilon),
        }
        for variant, evaluate in variants.items():  # also the warm-up
            yield Row("attack", case, f"{variant}: survivors", evaluate(), "%")
        seconds = interleaved(variants, settings.rounds, clock=settings.clock, device=device, warmup=0)
        for variant, time in seconds.items():
            yield Row("attack", case, variant, settings.batch / time, "images/s")
        for variant in list(variants)[1:]:
            promise = PROMISE if name == "robust" else ""
            times = seconds["torchattacks"] / seconds[variant]
            yield Row("attack", case, f"{variant} over torchattacks", times, "x", promise)


def pgd(epsilon: float) -> PGD:
    """`epsilon` in pixels times 255; steps of a quarter of it, as 2 of 8."""
    return PGD(epsilon, None, STEPS)


def ours(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Callable[[], float]:
    """Percent that survive our PGD-20."""
    return lambda: attacked_batch(network, images, labels, pgd(epsilon), 0, epsilon / 255).float().mean().item() * 100


def theirs(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Callable[[], float]:
    """The same with torchattacks, as one uses it."""
    attack = torchattacks.PGD(network, eps=epsilon / 255, alpha=pgd(epsilon).step_size / 255, steps=STEPS)

    def evaluate() -> float:
        attacked = attack(images, labels)
        with torch.no_grad():
            return 100 * (network(attacked).argmax(1) == labels).float().mean().item()

    return evaluate


def halving_epsilon(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The epsilon (pixels times 255) at which half of the images survive PGD-20; found by halving in six steps."""
    low, high = LEAST_RADIUS, 64.0
    for _ in range(6):
        middle = (low * high) ** 0.5
        left = ours(network, images, labels, middle)()
        if 45 <= left <= 55:
            return middle
        low, high = (middle, high) if left > 50 else (low, middle)
    return middle
