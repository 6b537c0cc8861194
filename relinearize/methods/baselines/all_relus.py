"""No search: every ReLU stays, or none. The two ends of every curve."""

import math

import torch
from torch import Tensor


class AllReLUs:
    """Every ReLU stays. With method/finetune=none such a run is its teacher, as a row of its own in tables."""

    def budget(self, shapes: dict[str, tuple[int, ...]]) -> int:
        """The ReLUs of sites of these shapes."""
        return sum(map(math.prod, shapes.values()))

    def scores(self, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """Site name -> the same score at every position."""
        return {name: torch.zeros(shape) for name, shape in shapes.items()}


class NoReLUs(AllReLUs):
    """No ReLU stays: a linear network, or a polynomial one with replacement=quadratic."""

    def budget(self, shapes: dict[str, tuple[int, ...]]) -> int:
        return 0
