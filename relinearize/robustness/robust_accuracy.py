"""Which images a network classifies correctly before and after an attack."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relinearize.robustness.attack import rows_of
from relinearize.robustness.attacks import logits_of
from relinearize.robustness.guard import check_threat_model


@dataclass(frozen=True)
class RobustAccuracy:
    """Bool N each in the images' order, on the CPU: which images are classified correctly without an attack (`clean`),
    and which both without and with it (`robust`)."""

    clean: Tensor
    robust: Tensor

    @property
    def robust_percent(self) -> float:
        return 100 * self.robust.float().mean().item()


def attacked_batch(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Callable[[nn.Module, Tensor, Tensor, int], Tensor],
    seed: int,
    epsilon: float | None,
) -> RobustAccuracy:
    """Of pixels N x C x H x W in [0, 1] with labels N; `epsilon`: the attack's radius in pixels of [0, 1], if any.

    In float32 (whether a GPU may shorten it to TF32 is up to the caller) and eval mode. Images that are wrong without
    an attack are not attacked: the ball around an image contains it. RuntimeError if the attack leaves [0, 1] or its
    radius.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        clean = logits_of(network, images).argmax(1) == labels
        robust = clean.clone()
        rows = clean.nonzero().squeeze(1)
        if len(rows):
            pixels, labels = rows_of(images, rows), labels[rows]
            found = attack(network, pixels, labels, seed)
            check_threat_model(pixels, found, epsilon)
            robust[rows] = logits_of(network, found).argmax(1) == labels
    return RobustAccuracy(clean.cpu(), robust.cpu())
