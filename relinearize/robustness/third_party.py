"""Attacks of other packages with all their settings, as conf/attack names them; what they share: attacks.py.

`least_classes`, where an attack has it: how many classes its loss compares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.robustness.attacks import check_counts, check_radius, checked_losses, description
from relinearize.robustness.autoattack import QUERIES, RESTARTS, STEPS, autoattack, least_classes
from relinearize.robustness.guard import (
    OTHER_DISTANCES,
    check_arguments,
    torchattacks_attack,
    torchattacks_least_classes,
)

APGD_LOSSES = {"ce": "CE", "dlr": "DLR", "t": "targeted DLR"}
# Arguments of torchattacks' classes that are distances, and our own key for each.
RADII = {"eps": "epsilon", "max_epsilon": "epsilon", "alpha": "step_size"}


@dataclass(frozen=True)
class APGD:
    """PGD that chooses its step size itself, as AutoAttack has it. losses: "ce", "dlr", or "t", the targeted dlr."""

    epsilon: float = 8.0
    steps: int = STEPS
    restarts: int = RESTARTS
    losses: Sequence[str] = ("ce", "dlr")
    name: str = "apgd"

    def __post_init__(self) -> None:
        object.__setattr__(self, "losses", checked_losses(self.losses, APGD_LOSSES))
        check_radius("attack.epsilon", self.epsilon)
        check_counts(steps=self.steps, restarts=self.restarts)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        settings = {"parts": self._parts, "steps": self.steps, "restarts": self.restarts}
        return autoattack(network, images, labels, epsilon=self.epsilon / 255, seed=seed, **settings)

    @property
    def _parts(self) -> tuple[str, ...]:
        return tuple(f"apgd-{loss}" for loss in self.losses)

    @property
    def least_classes(self) -> int:
        return least_classes(self._parts)

    @property
    def label(self) -> str:
        restarts = f" x {self.restarts}" if self.restarts > 1 else ""
        return f"APGD-{self.steps}{restarts} ({' and '.join(APGD_LOSSES[loss] for loss in self.losses)})"

    def describe(self) -> dict[str, Any]:
        return description(self.epsilon, None, self.steps, self.restarts, list(self.losses), "pyautoattack")


@dataclass(frozen=True)
class Square:
    """Random search without gradients, as AutoAttack has it; `queries` of the network for each image."""

    epsilon: float = 8.0
    queries: int = QUERIES
    name: str = "square"

    def __post_init__(self) -> None:
        check_radius("attack.epsilon", self.epsilon)
        check_counts(queries=self.queries)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        settings = {"parts": ("square",), "queries": self.queries}
        return autoattack(network, images, labels, epsilon=self.epsilon / 255, seed=seed, **settings)

    @property
    def label(self) -> str:
        return f"Square ({self.queries:,})"

    def describe(self) -> dict[str, Any]:
        return description(self.epsilon, None, self.queries, 1, ["margin"], "pyautoattack")


@dataclass(frozen=True)
class AutoAttack:
    """The standard version with the official settings: APGD-CE, APGD-T, FAB-T (100 steps each), Square (5000)."""

    epsilon: float = 8.0
    name: str = "autoattack"
    label: ClassVar[str] = "AutoAttack"

    def __post_init__(self) -> None:
        check_radius("attack.epsilon", self.epsilon)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        return autoattack(network, images, labels, epsilon=self.epsilon / 255, seed=seed)

    @property
    def least_classes(self) -> int:
        return least_classes()

    def describe(self) -> dict[str, Any]:
        return description(self.epsilon, None, None, None, [], "pyautoattack", ", standard")


@dataclass(frozen=True)
class Torchattacks:
    """Any attack of torchattacks by the name of its class.

    epsilon, step_size: become eps and alpha where the class has them and measures by the maximum norm, unless
    `arguments`, the class's own arguments (distances in pixels of [0, 1]), name them. step_size None: the class's.
    """

    attack: str
    epsilon: float = 8.0
    step_size: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    name: str = "torchattacks"

    def __post_init__(self) -> None:
        check_radius("attack.epsilon", self.epsilon)
        if self.step_size is not None:
            check_radius("attack.step_size", self.step_size, zero=False)
        object.__setattr__(self, "arguments", dict(self.arguments))
        check_arguments(self.attack, self.arguments)
        for key in RADII if self._distance == "Linf" else ():  # an L2 ball may be wider than any pixel's range
            value = self.arguments.get(key)
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
                raise UserError(
                    f"attack.arguments.{key}={value}: {self.attack} takes pixels of [0, 1], so {key} 1 at most "
                    f"(0.0314 for 8/255); attack.{RADII[key]} is in pixels times 255"
                )

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the class, without its defaults."""
        taken, settings = check_arguments(self.attack, self.arguments), dict(self.arguments)
        if self._distance == "Linf":
            for key, own in RADII.items():
                if key in taken and getattr(self, own) is not None:
                    settings.setdefault(key, getattr(self, own) / 255)
        return settings

    @property
    def _distance(self) -> str:
        return self.arguments.get("norm") or OTHER_DISTANCES.get(self.attack, "Linf")

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        return torchattacks_attack(self.attack, network, images, labels, seed=seed, arguments=self.settings)

    @property
    def least_classes(self) -> int:
        return torchattacks_least_classes(self.attack, self.arguments)

    @property
    def label(self) -> str:
        """torchattacks' AutoAttack does 10 steps instead of 100: never what people mean by the name."""
        return "TA-AA-10" if self.attack == "AutoAttack" else f"torchattacks {self.attack}"

    def describe(self) -> dict[str, Any]:
        used = {**check_arguments(self.attack, self.arguments), **self.settings}
        in_ball = self._distance == "Linf"
        radius, step = used.get("max_epsilon", used.get("eps")), used.get("alpha")
        return description(
            round(255 * radius, 6) if in_ball and radius is not None else None,
            round(255 * step, 6) if in_ball and step is not None else None,
            used.get("steps"),
            used.get("n_restarts"),
            [used["loss"]] if isinstance(used.get("loss"), str) else [],
            "torchattacks",
            f", {self.attack}" + ("" if in_ball else f", {self._distance}"),
        )
