"""The control of every search: random masks, uniform over all positions or within an allocation.

A search that does not beat a random mask of the same budget, fine-tuned the same way, has found nothing.
"""

import torch
from torch import Tensor

from relinearize.data.order import seeded_generator


class RandomMask:
    """Scores drawn from U(0, 1): the top B of them are a uniformly random mask of exactly B positions.

    One seed gives one order of all positions, so the masks of several budgets are nested.
    """

    def scores(self, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """Site name -> float64 scores of the site's shape. float64: ties among millions of draws do not happen."""
        generator = seeded_generator("random mask", seed)  # the seed's own stream is that of the initial weights
        return {name: torch.rand(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


class AllocatedRandomMask(RandomMask):
    """Random positions under an allocation: each site keeps as many as `allocate` gives it."""

    allocated = True
