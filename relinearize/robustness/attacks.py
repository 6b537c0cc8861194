"""Attacks with all their settings, as conf/attack names them: each is called attack(network, images, labels, seed).

It returns the attacked images: float32 in [0, 1], detached. An image counts as robust if it is correct after every
restart and loss.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from relinearize.errors import LEAST_RADIUS, UserError, check_choice, check_number, check_radius
from relinearize.robustness.attack import LOSSES, fgsm, in_eval_mode, is_right, pgd, rows_of

STEP_SHARE = 4  # PGD's own step size is epsilon / 4: 2/255 at 8/255


class Attack:
    """What the attacks, frozen dataclasses of their settings, share. label: what a table calls the attack.

    losses_known: what `losses` can name; least_classes: how many classes the loss compares; package: where the attack
    is from, None for ours.
    """

    epsilon: float
    name: str
    label: ClassVar[str]
    losses_known: ClassVar[Sequence[str]] = ()
    least_classes: ClassVar[int] = 2
    package: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """UserError naming the setting that makes no attack."""
        prefix = f"attack.{self.name}"
        for key, value in vars(self).items():
            if key == "epsilon" or (key == "step_size" and value is not None):
                check_radius(f"{prefix}.{key}", value, zero=key == "epsilon")
            elif key in ("steps", "restarts", "queries"):
                check_number(f"{prefix}.{key}", value, ">= 1", integer=True)
            elif key == "early_stop":
                check_choice(f"{prefix}.{key}", value, (True, False))
        if self.losses_known:
            losses = (self.losses,) if isinstance(self.losses, str) else tuple(self.losses)
            object.__setattr__(self, "losses", losses)
            if not losses or set(losses) - set(self.losses_known) or len(set(losses)) < len(losses):
                valid = f"give some of {', '.join(self.losses_known)}, each once"
                raise UserError(f"{prefix}.losses=[{','.join(map(str, losses))}]: {valid}")

    def described(
        self, step: float | None, steps: int | None, restarts: int | None, losses: Sequence[str], further: str = ""
    ) -> dict[str, Any]:
        """What `describe` returns: radii in pixels times 255 and numbers, None where the attack has none, and the
        version of its package, with `further` behind it."""
        return {
            "epsilon": float(self.epsilon),
            "step": None if step is None else float(step),
            "steps": steps,
            "restarts": restarts,
            "losses": list(losses),
            "version": None if self.package is None else f"{self.package} {version(self.package)}{further}",
        }


@dataclass(frozen=True)
class FGSM(Attack):
    """One step of epsilon on the cross-entropy, without a random start."""

    epsilon: float = 8.0
    name: str = "fgsm"
    label: ClassVar[str] = "FGSM"

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return fgsm(network, images.float(), labels, epsilon=self.epsilon / 255)

    def describe(self) -> dict[str, Any]:
        return self.described(self.epsilon, 1, 1, ["ce"])


@dataclass(frozen=True)
class PGD(Attack):
    """PGD from random starts; several losses one after the other, each on the images still classified correctly.

    step_size: None for a quarter of epsilon, or for LEAST_RADIUS where that is more.
    losses: some of "ce", "margin" and "kl" (away from the network's own logits of the clean image, as in TRADES).
    early_stop: an image that is misclassified is left at that (see `attack.pgd`); with "kl" all steps are done.
    """

    epsilon: float = 8.0
    step_size: float | None = 2.0
    steps: int = 20
    restarts: int = 1
    losses: Sequence[str] = ("ce",)
    early_stop: bool = True
    name: str = "pgd"
    losses_known: ClassVar[Sequence[str]] = LOSSES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is None:
            object.__setattr__(self, "step_size", max(LEAST_RADIUS, self.epsilon / STEP_SHARE))

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        settings = {"epsilon": self.epsilon / 255, "step_size": self.step_size / 255, "steps": self.steps}
        settings["generator"] = Generator(images.device).manual_seed(seed)
        # The restarts of "kl" are attacks one after the other: without labels pgd cannot tell which of them fooled.
        attempts = []
        for loss in self.losses:
            attempts += [(loss, 1)] * self.restarts if loss == "kl" else [(loss, self.restarts)]
        with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            images = images.float()
            found, left = images.clone(), torch.arange(len(labels), device=labels.device)
            for attempt, (loss, restarts) in enumerate(attempts):
                if attempt:
                    left = is_right(logits_of(network, found), labels).nonzero().squeeze(1)
                if not len(left):
                    break
                clean = rows_of(images, left)
                targets = logits_of(network, clean) if loss == "kl" else labels[left]
                settings |= {"loss": loss, "restarts": restarts, "active_only": self.early_stop and loss != "kl"}
                found[left] = pgd(network, clean, targets, **settings)
        return found

    @property
    def label(self) -> str:
        losses = [loss if loss == "margin" else loss.upper() for loss in self.losses]
        return f"PGD-{self.steps}{times(self.restarts)} ({' and '.join(losses)})"

    def describe(self) -> dict[str, Any]:
        return self.described(self.step_size, self.steps, self.restarts, self.losses)


def times(restarts: int) -> str:
    """Of labels: " x 5"; nothing for one start."""
    return f" x {restarts}" if restarts > 1 else ""


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Logits in eval mode, without a graph; the network is left as it was."""
    with torch.no_grad(), in_eval_mode(network):
        return network(images)


# ---- what an attack does to an accuracy ------------------------------------------------------------------------------


def attacked_batch(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Callable[[nn.Module, Tensor, Tensor, int], Tensor],
    seed: int,
    epsilon: float | None,
) -> Tensor:
    """Bool N, on the CPU: which images are classified correctly both without the attack and with it.

    images: pixels N x C x H x W in [0, 1] with labels N; epsilon: the attack's radius in pixels of [0, 1], if any.
    In float32 (whether a GPU may shorten it to TF32 is up to the caller) and eval mode. Images that are wrong without
    an attack are not attacked: the ball around an image contains it. RuntimeError if the attack leaves [0, 1] or its
    radius.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        robust = is_right(logits_of(network, images), labels)
        rows = robust.nonzero().squeeze(1)
        if len(rows):
            pixels, labels = rows_of(images, rows), labels[rows]
            found = attack(network, pixels, labels, seed)
            check_threat_model(pixels, found, epsilon)
            robust[rows] = is_right(logits_of(network, found), labels)
    return robust.cpu()


def check_threat_model(images: Tensor, adversarial: Tensor, epsilon: float | None, norm: str = "Linf") -> None:
    """RuntimeError unless `adversarial` is in [0, 1] and, in `norm`, within `epsilon` of `images`; no NaN passes."""
    low, high = (bound.item() for bound in adversarial.aminmax())
    if not (adversarial.shape == images.shape and low >= 0 and high <= 1):
        raise RuntimeError(
            f"attacked images {tuple(adversarial.shape)} of pixels {low:g} to {high:g}, not {tuple(images.shape)} "
            "in [0, 1]"
        )
    if epsilon is None or norm not in ("Linf", "L2", "L1"):
        return
    order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    distance = torch.linalg.vector_norm((adversarial - images).flatten(1), order, dim=1).max().item()
    # Sums over thousands of pixels round more than a maximum.
    if not distance <= epsilon + (1e-6 if norm == "Linf" else 1e-4 * epsilon + 1e-6):
        raise RuntimeError(f"attacked images are {distance:g} away in {norm}, epsilon is {epsilon:g}")
