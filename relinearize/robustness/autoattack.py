"""The official AutoAttack (Croce and Hein 2020), all of it or some parts, behind the guard.

torchattacks has an AutoAttack too, with 10 steps instead of 100 and without checks; here the name means the official
one.
"""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyautoattack import AutoAttack, checks
from torch import Tensor, nn

from relinearize.robustness.guard import Attack, check_classes, class_count, third_party_attack

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
STEPS, RESTARTS, QUERIES = 100, 1, 5000


def least_classes(parts: Sequence[str] = STANDARD) -> int:
    """How many logits a network must have: the targeted loss compares four, that of apgd-dlr three."""
    return 4 if "apgd-t" in parts else 3 if "apgd-dlr" in parts else 2


def autoattack(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    seed: int,
    parts: Sequence[str] | None = None,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    queries: int = QUERIES,
) -> Tensor:
    """AutoAttack in the maximum norm, or some of its parts.

    `parts` None is the standard version with the official settings, and the rest may not be changed then. Else those of
    apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square that are named: `steps` and `restarts` are APGD's, `queries` Square's
    (whose schedule is stretched to another number than the official 5000). Targets: 9, or all where there are fewer.

    What its own checks find (a random network, probabilities for logits, zero gradients, ...) comes as a warning.
    Raises UserError for too few classes (`least_classes`).
    """
    if parts is None and (steps, restarts, queries) != (STEPS, RESTARTS, QUERIES):
        raise ValueError("the standard version has 100 steps, 1 restart and 5000 queries; name parts to change them")
    chosen = STANDARD if parts is None else tuple(parts)
    classes = class_count(network, images)
    check_classes(classes, "AutoAttack", least_classes(chosen))

    def build(logits: nn.Module) -> Attack:
        version = {"version": "standard"} if parts is None else {"version": "custom", "attacks": list(chosen)}
        attack = AutoAttack(logits, norm="Linf", eps=epsilon, seed=seed, device=images.device, **version)
        targets = min(9, classes - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        if parts is not None:
            attack.fab.n_restarts = 1
            for apgd in (attack.apgd, attack.apgd_targeted):
                apgd.n_restarts = restarts
                apgd.n_iter, apgd.n_iter_orig = steps, steps
                # Its constructor's rule for when the step is halved.
                apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (
                    max(int(share * steps), 1) for share in (0.22, 0.06, 0.03)
                )
            attack.square.n_queries = queries
            attack.square.rescale_schedule = queries != QUERIES

        def run(pixels: Tensor, targets: Tensor) -> Tensor:
            with _flags():
                return attack.run_standard_evaluation(pixels, targets, batch_size=len(pixels))[0]

        return run

    return third_party_attack(build, network, images, labels, seed=seed, epsilon=epsilon)


class _Warnings(logging.Handler):
    """Log records of AutoAttack's checks as Python warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            warnings.warn(f"AutoAttack: {record.getMessage()}", stacklevel=2)


@contextmanager
def _flags() -> Iterator[None]:
    """AutoAttack's flags as warnings; its counters begin at 0 and the debugger's trace function comes back."""
    logger = logging.getLogger("auto-attack")
    handler, propagate, trace = _Warnings(), logger.propagate, sys.gettrace()
    logger.addHandler(handler)
    logger.propagate = False
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        yield
    finally:
        sys.settrace(trace)
        logger.propagate = propagate
        logger.removeHandler(handler)
