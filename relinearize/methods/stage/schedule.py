"""Learning rates as plain functions of the epoch, so that a resumed run needs no scheduler state."""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn, optim

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
        return base * gamma ** sum(epoch >= round(fraction * epochs, 6) for fraction in milestones)
    raise ValueError(f"schedule={schedule} is unknown; valid: {', '.join(SCHEDULES)}")


def one_cycle(base: float, progress: float, warmup: float) -> float:
    """The rate at `progress` (0 to 1) of a cycle: linear from 0 to base over the share `warmup`, then cosine to 0."""
    if progress < warmup:
        return base * progress / warmup
    return base * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))) / 2


def adam(
    network: nn.Module, slopes: Iterable[Tensor], learning_rate: float, slope_rate: float | None
) -> optim.Optimizer:
    """Adam, fused, at its default betas without weight decay. slope_rate: that of the sites' slopes; None: alike."""
    slopes, slope_rate = list(slopes), slope_rate or learning_rate
    own = {id(slope) for slope in slopes}
    weights = [parameter for parameter in network.parameters() if id(parameter) not in own]
    groups = [
        {"params": weights, "lr": learning_rate, "base_learning_rate": learning_rate},
        {"params": slopes, "lr": slope_rate, "base_learning_rate": slope_rate},
    ]
    return optim.Adam(groups, fused=True)


def sgd(parameters, learning_rate: float, momentum: float, weight_decay: float, nesterov=False) -> optim.Optimizer:
    """SGD, fused: one kernel for all parameters. The papers have no Nesterov."""
    settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return optim.SGD(list(parameters), lr=learning_rate, fused=True, **settings)
