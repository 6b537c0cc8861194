"""No search: every ReLU stays. With method/finetune=none such a run is its teacher, as a row of its own in tables."""

import torch
from torch import Tensor


class AllReLUs:
    """A mask of all positions. A run's budget must be all ReLUs (budget=all)."""

    name = "search"
    keeps_all = True

    def scores(self, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """Site name -> the same score at every position."""
        return {name: torch.zeros(shape) for name, shape in shapes.items()}
