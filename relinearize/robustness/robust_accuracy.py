"""How many images a network classifies correctly before and after an attack, batch by batch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from relinearize.robustness.attack import rows_of
from relinearize.robustness.attacks import logits_of
from relinearize.robustness.guard import check_threat_model

Attack = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class RobustAccuracy:
    """Of one batch or of all, bool N each in the images' order, on the CPU: which images are classified correctly
    without an attack (`clean`), and which both without and with it (`robust`)."""

    clean: Tensor
    robust: Tensor

    @property
    def robust_percent(self) -> float:
        return 100 * self.robust.float().mean().item()


def robust_accuracy(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    attack: Attack,
    seed: int,
    *,
    on_batch: Callable[[int, RobustAccuracy], None] | None = None,
    known: Sequence[RobustAccuracy] = (),
) -> RobustAccuracy:
    """Which images of `batches` (pixels N x C x H x W in [0, 1], labels N) are classified correctly under `attack`.

    In float32 (whether a GPU may shorten it to TF32 is up to the caller) and eval mode. Images that are wrong without
    an attack are not attacked: the ball around an image contains it. The seed of each batch is a function of `seed` and
    its number, so an evaluation in pieces gives the same: `on_batch(number, result)` is called after each batch, and
    `known` are the results of the first ones, which are not computed again.

    Raises RuntimeError if the attack leaves [0, 1] or its radius (`attack.describe()["epsilon"]`, if it has one), and
    ValueError for no images and for known results that do not fit.
    """
    describe = getattr(attack, "describe", dict)
    radius = describe().get("epsilon")
    epsilon = None if radius is None else radius / 255
    results = []
    for number, (images, labels) in enumerate(batches):
        if number < len(known):
            if len(known[number].clean) != len(labels):
                raise ValueError(
                    f"batch {number} has {len(labels)} images, its known result {len(known[number].clean)}"
                )
            results.append(known[number])
            continue
        result = attacked_batch(network, images, labels, attack, batch_seed(seed, number), epsilon)
        results.append(result)
        if on_batch is not None:
            on_batch(number, result)
    if not results:
        raise ValueError("robust accuracy of no images")
    return RobustAccuracy(*(torch.cat([getattr(result, name) for result in results]) for name in ("clean", "robust")))


def attacked_batch(
    network: nn.Module, images: Tensor, labels: Tensor, attack: Attack, seed: int, epsilon: float | None
) -> RobustAccuracy:
    """One batch of `robust_accuracy`; `epsilon` in pixels of [0, 1]."""
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


def batch_seed(seed: int, number: int) -> int:
    """Below 2^32, unlike for any two batches."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
