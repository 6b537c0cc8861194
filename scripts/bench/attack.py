"""Robust accuracy under PGD-20: ours against torchattacks, both in float32 on the same network.

How much the early stop saves depends on how many images survive. One epsilon is chosen so that half of them do, about
what adversarially trained networks of CIFAR-10 reach; another so small that all do, where it saves nothing. All images
are right before the attack, so nothing is gained by leaving alone those that are not, either.
"""

from collections.abc import Callable, Iterator

import torch
import torchattacks
from torch import Tensor, nn

from bench.common import Row, Settings, interleaved
from bench.steps import batch_of, network_of
from relinearize.robustness.attacks import LEAST_RADIUS, PGD, answer
from relinearize.robustness.robust_accuracy import robust_accuracy

STEPS = 20
PROMISE = ">= 1.5"
SEARCHED = 32  # images by which the epsilon is found


def measure(settings: Settings, device: str = "cpu") -> Iterator[Row]:
    """Images a second of both, and their ratio, where half of the images survive and where all do."""
    network, plain = (network_of(settings.width).eval().to(device) for _ in range(2))
    network.to(memory_format=torch.channels_last)
    images, _ = batch_of(settings.batch, device)
    labels = answer(network, images).argmax(1)
    half = halving_epsilon(network, images[:SEARCHED], labels[:SEARCHED])
    for name, epsilon in (("half survive", half), ("all survive", LEAST_RADIUS)):
        case = f"{name}, resnet18 width {settings.width}, batch {settings.batch}, 32, {device}"
        variants = {
            "ours": ours(network, images, labels, epsilon),
            "torchattacks": theirs(plain, images.contiguous(), labels, epsilon),
        }
        for variant, evaluate in variants.items():  # also the warm-up
            yield Row("attack", case, f"{variant}: survivors", evaluate(), "%")
        seconds = interleaved(variants, settings.rounds, clock=settings.clock, device=device, warmup=0)
        for variant in variants:
            yield Row("attack", case, variant, settings.batch / seconds[variant], "images/s")
        promise = PROMISE if epsilon == half else ""
        yield Row("attack", case, "ours over torchattacks", seconds["torchattacks"] / seconds["ours"], "x", promise)


def pgd(epsilon: float) -> PGD:
    """`epsilon` in pixels times 255; steps of a quarter of it, as 2 of 8."""
    return PGD(epsilon, max(LEAST_RADIUS, epsilon / 4), STEPS)


def ours(network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Callable[[], float]:
    """Percent that survive our PGD-20."""
    return lambda: robust_accuracy(network, [(images, labels)], pgd(epsilon), seed=0).robust_percent


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
        if 40 <= left <= 60:
            return middle
        low, high = (middle, high) if left > 50 else (low, middle)
    return middle
