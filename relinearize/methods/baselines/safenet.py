"""SAFENet (Lou et al., ICLR 2021): which channels become polynomials, and of which degree, under a budget of ReLUs.

Known of the abstract: the most useful channels keep their ReLUs, the others become polynomials of several degrees, and
each layer has a replacement ratio of its own, found by a search. Here: the mean of `score=` over a channel's positions,
on the teacher; degrees 2 and 3; replacement.py; planner.py. What is not known of the paper: docs/methods.md.

A plan has two numbers per site: what its share of the budget is proportional to, as in SENet's allocation, rounded to
whole channels; and the share of its removed channels that have degree 3, those of largest score. Engines compute all
channels of a site alike, so a channel of degree 2 costs as much as a cubic: its last coefficient is 0.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.methods.baselines.planner import Planner, counts_from_below
from relinearize.methods.replacement import Cubic, GaussianFit, Quadratic
from relinearize.methods.scores import Scores, check_callable
from relinearize.relu.allocation import allocate
from relinearize.relu.budget import channel_mask
from relinearize.relu.mask import Mask

LEAST_SHARE = 1e-3  # of a site: an allocation needs something above 0


class MixedDegrees(Cubic):
    """Channels with degree 3 where `cubic` (site -> bool C) is true, degree 2 elsewhere."""

    def __init__(self, cubic: Mapping[str, Tensor], **settings: Any) -> None:
        super().__init__(**settings)
        self.cubic = cubic

    def at_site(self, name: str, mean: Tensor, deviation: Tensor) -> Tensor:
        quadratic = nn.functional.pad(Quadratic.fitted(mean, deviation), (0, 0, 0, 1))
        return torch.where(self.cubic[name].to(mean.device), self.fitted(mean, deviation), quadratic)


class SAFENet(Planner):
    """The search stage of method=safenet; see Planner. Settings: conf/method/search/safenet.yaml."""

    plans_with = "cubic"
    unit = "channels"
    SAVED = (*Planner.SAVED, "scores")

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        score: Callable[..., Scores],
        score_images: int = 4096,
        **settings: Any,
    ) -> None:
        check_callable(f"{self.config_key}.score", score)
        self.take(">= 1", integer=True, score_images=score_images)
        super().__init__(network, teacher, **settings)
        self.score_of = score
        self.scores: Scores = {}

    @property
    def units(self) -> dict[str, tuple[int, int]]:
        return {name: (shape[0], torch.Size(shape[1:]).numel()) for name, shape in self.shapes.items()}

    @property
    def numbers(self) -> list[str]:
        return [f"{name} {what}" for name in self.shapes for what in ("kept", "cubic")]

    def on_train_start(self) -> None:
        if not self.scores:  # else of a checkpoint; the network is no longer the teacher's then
            batches = self.further_batches(1, self.score_images)
            found = self.score_of(self.network, batches, teacher=self._frozen[0], seed=self.seed)
            self.scores = {name: found[name].cpu() for name in self.shapes}
        super().on_train_start()

    def plan(self, numbers: Mapping[str, float]) -> tuple[Mask, GaussianFit]:
        units = self.units
        sizes = {name: number * size for name, (number, size) in units.items()}
        shares = {name: max(LEAST_SHARE, numbers[f"{name} kept"]) * sizes[name] for name in sizes}
        wanted = {name: round(count / units[name][1]) for name, count in allocate(sizes, shares, self.budget).items()}
        order = sorted(units, key=lambda name: -units[name][1])  # small maps last: they make up the rest
        counts = counts_from_below(units, order, wanted, self.budget)
        kept = channel_mask(self.scores, counts)
        higher = {
            name: counts[name] + round(numbers[f"{name} cubic"] * (number - counts[name]))
            for name, (number, _) in units.items()
        }
        cubic = channel_mask(self.scores, higher)
        degrees = {name: (cubic[name] & ~kept[name]).reshape(len(cubic[name]), -1)[:, 0] for name in units}
        return kept, MixedDegrees(degrees, images=self.fit.images, continuation=self.fit.continuation)

    def position_scores(self) -> Scores:
        return self.scores
