"""Attacks of other packages with all their settings, as conf/attack names them, behind the guard.

torchattacks has an AutoAttack too, with 10 steps instead of 100 and without checks; here the name means the official
one (Croce and Hein 2020).
"""

import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyautoattack
import torchattacks
from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.robustness.attacks import Attack, times
from relinearize.robustness.guard import class_count, third_party_attack

STEPS, RESTARTS, QUERIES = 100, 1, 5000
APGD_LOSSES = {"ce": "CE", "dlr": "DLR", "t": "targeted DLR"}

# Made of other attacks or of a loader, not of a network and numbers.
WRAPPERS = ("LGV", "MultiAttack")
TORCHATTACKS = tuple(sorted(set(torchattacks.__all__) - set(WRAPPERS)))
# By which distance the attacks that have no argument for it measure; all others: the maximum norm.
OTHER_DISTANCES = {
    **dict.fromkeys(("CW", "DeepFool", "EADEN", "PGDL2", "PGDRSL2"), "L2"),
    **dict.fromkeys(("JSMA", "OnePixel", "Pixle", "SparseFool"), "L0"),
    **dict.fromkeys(("GN", "VANILA"), "none"),
    "EADL1": "L1",
}
# Those that smooth gradients by a kernel for three channels.
COLOURED = ("PIFGSM", "PIFGSMPP", "TIFGSM")
# Arguments of torchattacks' classes that are distances, and our own key for each.
RADII = {"eps": "epsilon", "max_epsilon": "epsilon", "alpha": "step_size"}


def check_classes(classes: int, what: str, least: int) -> None:
    if classes < least:
        raise UserError(
            f"attack: {what} compares {least} logits, but the network has {classes}; take the attack pgd100x5 or square"
        )


@contextmanager
def _flags() -> Iterator[None]:
    """AutoAttack's flags as warnings; its counters begin at 0 and the debugger's trace function comes back."""
    logger, handler = logging.getLogger("auto-attack"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.warn(f"AutoAttack: {record.getMessage()}", stacklevel=2)
    propagate, trace = logger.propagate, sys.gettrace()
    logger.addHandler(handler)
    logger.propagate = False
    pyautoattack.checks.funcs.update(dict.fromkeys(pyautoattack.checks.funcs, 0))
    try:
        yield
    finally:
        sys.settrace(trace)
        logger.propagate = propagate
        logger.removeHandler(handler)


@dataclass(frozen=True)
class AutoAttack(Attack):
    """The standard version with the official settings: APGD-CE, APGD-T, FAB-T (100 steps each), Square (5000).

    parts: of a sub-class, which of apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square it is instead. `steps` and `restarts`
    are then APGD's, `queries` Square's (whose schedule is stretched to another number than the official 5000).
    Targets: 9, or all where there are fewer.

    What AutoAttack's own checks find (a random network, probabilities for logits, zero gradients, ...) comes as a
    warning. Raises UserError for too few classes.
    """

    epsilon: float = 8.0
    name: str = "autoattack"
    label: ClassVar[str] = "AutoAttack"
    package: ClassVar[str] = "pyautoattack"
    parts: ClassVar[tuple[str, ...] | None] = None
    steps: ClassVar[int] = STEPS
    restarts: ClassVar[int] = RESTARTS
    queries: ClassVar[int] = QUERIES

    @property
    def least_classes(self) -> int:
        """The targeted loss compares four logits, that of apgd-dlr three."""
        parts = self.parts or ("apgd-t",)
        return 4 if "apgd-t" in parts else 3 if "apgd-dlr" in parts else 2

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        classes, epsilon = class_count(network, images), self.epsilon / 255
        check_classes(classes, "AutoAttack", self.least_classes)

        def build(logits: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
            version = {"version": "custom", "attacks": list(self.parts)} if self.parts else {"version": "standard"}
            settings = {"norm": "Linf", "eps": epsilon, "seed": seed, "device": images.device, **version}
            attack = pyautoattack.AutoAttack(logits, **settings)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
            if self.parts:
                attack.fab.n_restarts = 1
                for apgd in (attack.apgd, attack.apgd_targeted):
                    apgd.n_restarts = self.restarts
                    apgd.n_iter, apgd.n_iter_orig = self.steps, self.steps
                    # Its constructor's rule for when the step is halved.
                    apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (
                        max(int(share * self.steps), 1) for share in (0.22, 0.06, 0.03)
                    )
                attack.square.n_queries = self.queries
                attack.square.rescale_schedule = self.queries != QUERIES

            def run(pixels: Tensor, targets: Tensor) -> Tensor:
                with _flags():
                    return attack.run_standard_evaluation(pixels, targets, batch_size=len(pixels))[0]

            return run

        return third_party_attack(build, network, images, labels, seed=seed, epsilon=epsilon)

    def describe(self) -> dict[str, Any]:
        return self.described(None, None, None, [], ", standard")


@dataclass(frozen=True)
class APGD(AutoAttack):
    """PGD that chooses its step size itself, as AutoAttack has it. losses: "ce", "dlr", or "t", the targeted dlr."""

    steps: int = STEPS
    restarts: int = RESTARTS
    losses: Sequence[str] = ("ce", "dlr")
    name: str = "apgd"
    losses_known: ClassVar[Sequence[str]] = tuple(APGD_LOSSES)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"apgd-{loss}" for loss in self.losses)

    @property
    def label(self) -> str:
        losses = " and ".join(APGD_LOSSES[loss] for loss in self.losses)
        return f"APGD-{self.steps}{times(self.restarts)} ({losses})"

    def describe(self) -> dict[str, Any]:
        return self.described(None, self.steps, self.restarts, self.losses)


@dataclass(frozen=True)
class Square(AutoAttack):
    """Random search without gradients, as AutoAttack has it; `queries` of the network for each image."""

    queries: int = QUERIES
    name: str = "square"
    parts: ClassVar[tuple[str, ...]] = ("square",)

    @property
    def label(self) -> str:
        return f"Square ({self.queries:,})"

    def describe(self) -> dict[str, Any]:
        return self.described(None, self.queries, 1, ["margin"])


@dataclass(frozen=True)
class Torchattacks(Attack):
    """Any attack of torchattacks by the name of its class.

    epsilon, step_size: become eps and alpha where the class has them and measures by the maximum norm, unless
    `arguments`, the class's own arguments (distances in pixels of [0, 1]), name them. step_size None: the class's.
    """

    attack: str
    epsilon: float = 8.0
    step_size: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    name: str = "torchattacks"
    package: ClassVar[str] = "torchattacks"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "arguments", dict(self.arguments))
        prefix = f"attack.{self.name}"
        if self.attack in WRAPPERS:
            raise UserError(
                f"{prefix}: torchattacks' {self.attack} is made of other attacks or training, not of a network alone"
            )
        if self.attack not in TORCHATTACKS:
            raise UserError(f"{prefix}: torchattacks has no {self.attack!r}; valid are {', '.join(TORCHATTACKS)}")
        taken = self._defaults
        if unknown := [key for key in self.arguments if key not in taken]:
            raise UserError(
                f"{prefix}.arguments: {self.attack} does not take {', '.join(unknown)}; it takes {', '.join(taken)}"
            )
        for key in RADII if self._distance == "Linf" else ():  # an L2 ball may be wider than any pixel's range
            value = self.arguments.get(key)
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
                raise UserError(
                    f"{prefix}.arguments.{key}={value}: {self.attack} takes pixels of [0, 1], so {key} 1 at most "
                    f"(0.0314 for 8/255); {prefix}.{RADII[key]} is in pixels times 255"
                )

    @property
    def _defaults(self) -> dict[str, Any]:
        """The arguments that the class takes, with their defaults."""
        parameters = inspect.signature(getattr(torchattacks, self.attack).__init__).parameters
        return {key: value.default for key, value in parameters.items() if key not in ("self", "model")}

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the class, without its defaults."""
        settings = dict(self.arguments)
        for key, own in RADII.items() if self._distance == "Linf" else ():
            if key in self._defaults and getattr(self, own) is not None:
                settings.setdefault(key, getattr(self, own) / 255)
        return settings

    @property
    def _distance(self) -> str:
        return self.arguments.get("norm") or OTHER_DISTANCES.get(self.attack, "Linf")

    @property
    def least_classes(self) -> int:
        """The targeted loss compares four logits, the dlr loss three."""
        return 4 if self.attack in ("APGDT", "AutoAttack") else 3 if self.arguments.get("loss") == "dlr" else 2

    @property
    def least_channels(self) -> int:
        return 3 if self.attack in COLOURED else 1

    @property
    def label(self) -> str:
        """torchattacks' AutoAttack does 10 steps instead of 100: never what people mean by the name."""
        return "TA-AA-10" if self.attack == "AutoAttack" else f"torchattacks {self.attack}"

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """`seed` and `n_classes` are filled in where the class takes them and `arguments` does not have them."""
        filled = {"seed": seed, "n_classes": class_count(network, images)}
        arguments = {key: value for key, value in filled.items() if key in self._defaults} | self.settings
        classes = arguments.get("n_classes") or filled["n_classes"]
        check_classes(classes, f"torchattacks' {self.attack}", self.least_classes)
        return third_party_attack(
            lambda logits: getattr(torchattacks, self.attack)(logits, **arguments),
            network,
            images,
            labels,
            seed=seed,
            epsilon=self._used.get("max_epsilon", self._used.get("eps")),
            norm=self._distance,
        )

    @property
    def _used(self) -> dict[str, Any]:
        return {**self._defaults, **self.settings}

    def describe(self) -> dict[str, Any]:
        used, in_ball = self._used, self._distance == "Linf"
        radius, step = (
            round(255 * value, 6) if in_ball and value is not None else None
            for value in (used.get("max_epsilon", used.get("eps")), used.get("alpha"))
        )
        losses = [used["loss"]] if isinstance(used.get("loss"), str) else []
        further = f", {self.attack}" + ("" if in_ball else f", {self._distance}")
        described = self.described(step, used.get("steps"), used.get("n_restarts"), losses, further)
        return described | {"epsilon": None if radius is None else float(radius)}
