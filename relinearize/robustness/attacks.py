"""Attacks with all their settings, as conf/attack names them: each is called attack(network, images, labels, seed).

It returns the attacked images: float32 in [0, 1], detached. `label` is what a table calls it, `describe()` says what it
does as plain values: epsilon and step (in pixels times 255; None: has none), steps, restarts, losses, and the version
of the package it is from (None: ours). An image counts as robust if it is correct after every restart and loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from relinearize.errors import UserError
from relinearize.robustness.attack import LOSSES, fgsm, pgd, rows_of, under_attack

# Radii below this are taken for pixels of [0, 1] by mistake: 8/255 is 0.031.
LEAST_RADIUS = 0.1


@dataclass(frozen=True)
class FGSM:
    """One step of epsilon on the cross-entropy, without a random start."""

    epsilon: float = 8.0
    name: str = "fgsm"
    label: ClassVar[str] = "FGSM"

    def __post_init__(self) -> None:
        check_radius("attack.epsilon", self.epsilon)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return fgsm(network, images.float(), labels, epsilon=self.epsilon / 255)

    def describe(self) -> dict[str, Any]:
        return description(self.epsilon, self.epsilon, 1, 1, ["ce"])


@dataclass(frozen=True)
class PGD:
    """PGD from random starts; several losses one after the other, each on the images still classified correctly.

    losses: some of "ce", "margin" and "kl" (away from the network's own logits of the clean image, as in TRADES).
    early_stop: an image that is misclassified is left at that (see `attack.pgd`); with "kl" all steps are done.
    """

    epsilon: float = 8.0
    step_size: float = 2.0
    steps: int = 20
    restarts: int = 1
    losses: Sequence[str] = ("ce",)
    early_stop: bool = True
    name: str = "pgd"

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", checked_losses(self.losses, LOSSES))
        check_radius("attack.epsilon", self.epsilon)
        check_radius("attack.step_size", self.step_size, zero=False)
        check_counts(steps=self.steps, restarts=self.restarts)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        settings = {"epsilon": self.epsilon / 255, "step_size": self.step_size / 255, "steps": self.steps}
        settings["generator"] = Generator(images.device).manual_seed(seed)
        # The restarts of "kl" are attacks one after the other: without labels pgd cannot tell which of them fooled.
        attempts = []
        for loss in self.losses:
            attempts += [(loss, 1)] * self.restarts if loss == "kl" else [(loss, self.restarts)]

        def attacked(clean: Tensor, true: Tensor, loss: str, restarts: int) -> Tensor:
            targets = logits_of(network, clean) if loss == "kl" else true
            settings["active_only"] = self.early_stop and loss != "kl"
            return pgd(network, clean, targets, loss=loss, restarts=restarts, **settings)

        with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            images = images.float()
            first, *further = attempts
            found = attacked(images, labels, *first)
            for attempt in further:
                left = (logits_of(network, found).argmax(1) == labels).nonzero().squeeze(1)
                if not len(left):
                    break
                found[left] = attacked(rows_of(images, left), labels[left], *attempt)
        return found

    @property
    def label(self) -> str:
        restarts = f" x {self.restarts}" if self.restarts > 1 else ""
        losses = " and ".join(loss if loss == "margin" else loss.upper() for loss in self.losses)
        return f"PGD-{self.steps}{restarts} ({losses})"

    def describe(self) -> dict[str, Any]:
        return description(self.epsilon, self.step_size, self.steps, self.restarts, list(self.losses))


def description(
    epsilon: float | None,
    step: float | None,
    steps: int | None,
    restarts: int | None,
    losses: list[str],
    package: str | None = None,
    further: str = "",
) -> dict[str, Any]:
    """What `describe` returns; `package` is the name of the one the attack is from."""
    radii = {key: None if value is None else float(value) for key, value in (("epsilon", epsilon), ("step", step))}
    made = None if package is None else f"{package} {version(package)}{further}"
    return {**radii, "steps": steps, "restarts": restarts, "losses": losses, "version": made}


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Logits in eval mode, without a graph; the network is left as it was."""
    with torch.no_grad(), under_attack(network):
        return network(images)


def checked_losses(losses: str | Sequence[str], valid: Sequence[str]) -> tuple[str, ...]:
    """As a tuple; UserError unless they are some of `valid`, each once."""
    losses = (losses,) if isinstance(losses, str) else tuple(losses)
    if not losses or set(losses) - set(valid) or len(set(losses)) < len(losses):
        raise UserError(f"attack.losses=[{','.join(map(str, losses))}]: give some of {', '.join(valid)}, each once")
    return losses


def check_radius(key: str, value: object, zero: bool = True) -> None:
    """UserError, naming `key`, unless `value` can be a distance in pixels times 255. `zero`: whether 0 can be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 255:
        raise UserError(f"{key}={value}: give pixels times 255, from 0 to 255 (8 for 8/255)")
    if 0 < value < LEAST_RADIUS:
        raise UserError(f"{key}={value}: this is {value}/255; give pixels times 255 (8 for 8/255)")
    if not (value or zero):
        raise UserError(f"{key}={value} makes no attack; give pixels times 255, above 0 (8 for 8/255)")


def check_counts(**counts: object) -> None:
    """UserError unless all are integers of at least 1."""
    for key, value in counts.items():
        if type(value) is not int or value < 1:
            raise UserError(f"attack.{key}={value}: must be an integer >= 1")
