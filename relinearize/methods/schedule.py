"""Learning rates as plain functions of the epoch, so that a resumed run needs no scheduler state."""

import math
from collections.abc import Sequence

from torch import optim

SCHEDULES = ("constant", "cosine", "milestones")


def learning_rate(
    base: float, schedule: str, epoch: int, epochs: int, milestones: Sequence[float] = (), gamma: float = 0.1
) -> float:
    """The rate of `epoch` (from 0) of `epochs`.

    constant    base throughout (SNL's search)
    cosine      base * (1 + cos(pi * epoch / epochs)) / 2: from base towards 0, one step an epoch (SNL's fine-tuning)
    milestones  base * gamma for each milestone passed; a milestone is a fraction of `epochs` (0.5 and 0.75 in SNL)
    """
    if schedule == "constant":
        return base
    if schedule == "cosine":
        return base * (1 + math.cos(math.pi * epoch / epochs)) / 2
    if schedule == "milestones":
        return base * gamma ** sum(epoch >= fraction * epochs for fraction in milestones)
    raise ValueError(f"schedule={schedule} is unknown; valid: {', '.join(SCHEDULES)}")


def sgd(parameters, learning_rate: float, momentum: float, weight_decay: float) -> optim.Optimizer:
    """The papers' SGD (no Nesterov), fused: one kernel for all parameters."""
    return optim.SGD(list(parameters), lr=learning_rate, momentum=momentum, weight_decay=weight_decay, fused=True)
