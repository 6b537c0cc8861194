"""DELPHI's planner (Mishra et al., USENIX Security 2020): which layers become quadratics, under a budget of ReLUs.

Known second-hand: a population search decides layer by layer between ReLU and a quadratic, a plan is trained with
clipped gradients, and accuracy counts. What the paper has beyond that, and what is not known of it: docs/methods.md.

A plan is a priority per site: sites keep their ReLUs in this order, each if the others can still make up the largest
number of ReLUs that whole sites have within the budget.
"""

from collections.abc import Mapping

import torch

from relinearize.methods.baselines.planner import Planner, counts_from_below
from relinearize.methods.replacement import GaussianFit
from relinearize.relu.mask import Mask


class Delphi(Planner):
    """The search stage of method=delphi; see Planner."""

    unit = "layers"

    @property
    def units(self) -> dict[str, tuple[int, int]]:
        return {name: (1, torch.Size(shape).numel()) for name, shape in self.shapes.items()}

    @property
    def numbers(self) -> list[str]:
        return list(self.shapes)

    def plan(self, numbers: Mapping[str, float]) -> tuple[Mask, GaussianFit]:
        order = sorted(self.shapes, key=lambda name: -numbers[name])
        kept = counts_from_below(self.units, order, dict.fromkeys(order, 1), self.budget)
        return Mask({name: torch.full(shape, bool(kept[name])) for name, shape in self.shapes.items()}), self.fit
