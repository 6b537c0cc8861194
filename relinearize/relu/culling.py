"""Layer culling (DeepReDuce's word): which sites keep any ReLU at all.

Under two-party computation a site that keeps one ReLU takes as many messages as one that keeps them all, and one that
keeps none takes no message. So a network that holds its budget at few sites has a lower latency than one that spreads
it over all. How much a culled site matters to accuracy is measured by the worth of a division, in the terms of the
search that made it.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from relinearize.relu.allocation import allocate


@dataclass(frozen=True)
class Division:
    """A budget divided over the sites. counts: ReLUs of each site. worth: of all of them together, in any unit."""

    counts: dict[str, int]
    worth: float

    @property
    def live(self) -> list[str]:
        """The sites that keep any."""
        return [name for name, count in self.counts.items() if count]


# From the sites that may keep ReLUs to the search's own division of the budget among them.
Divide = Callable[[Collection[str]], Division]


class ScoredPositions:
    """Of a search that scores positions: those of largest score at the live sites, as relu/budget.py takes them.

    Worth is how many of the search's own top positions are among them. Positions that take the place of the others
    count nothing: the search would have linearized them.
    """

    def __init__(self, scores: Mapping[str, Tensor], budget: int) -> None:
        self.names = list(scores)
        self.budget = budget
        flat = torch.cat([score.detach().reshape(-1).cpu().double() for score in scores.values()]).numpy()
        order = np.argsort(-flat, kind="stable")  # once: what any choice of sites keeps is a part of it
        sizes = [score.numel() for score in scores.values()]
        self.sites = np.repeat(np.arange(len(sizes)), sizes)[order]
        self.own = self._counts(self.sites[:budget])

    def __call__(self, live: Collection[str]) -> Division:
        is_live = np.array([name in live for name in self.names])
        counts = self._counts(self.sites[is_live[self.sites]][: self.budget])
        worth = self.own[is_live].sum()
        return Division(dict(zip(self.names, counts.tolist(), strict=True)), float(worth))

    def _counts(self, sites: np.ndarray) -> np.ndarray:
        return np.bincount(sites, minlength=len(self.names))


class SensitiveSites:
    """Of a search that is given sensitivities: relu/allocation.py's division among the live sites.

    Worth is the sum of eta_l * log(1 + n_l). Shares in proportion to eta_l maximise it (but for the 1, which makes a
    culled site worth 0), so SENet's own division is worth most and every culled site loses some.
    """

    def __init__(self, sizes: Mapping[str, int], sensitivities: Mapping[str, float], budget: int) -> None:
        self.sizes, self.sensitivities, self.budget = sizes, sensitivities, budget

    def __call__(self, live: Collection[str]) -> Division:
        counts = allocate(self.sizes, self.among(live), self.budget)
        return Division(counts, sum(eta * math.log1p(counts[name]) for name, eta in self.sensitivities.items()))

    def among(self, live: Collection[str]) -> dict[str, float | None]:
        """As `allocate` takes them: None for sites that are not live; 1 for those that are, if theirs are all 0."""
        known = any(self.sensitivities[name] for name in live)
        return {name: (eta if known else 1.0) if name in live else None for name, eta in self.sensitivities.items()}


def keep_sites(sizes: Mapping[str, int], budget: int, divide: Divide, number: int) -> Division:
    """Cull one site after the other, each time the one whose loss leaves the largest worth, until `number` are live.

    Never a site without which the budget could not be held at `number` sites; the `number` largest sites must hold it.
    The search's own division is returned where it has no more live sites than that. Among equals the earliest site is
    culled.
    """
    open_sites, division = list(sizes), divide(sizes)
    while len(division.live) > number:
        ways = _without_one(open_sites)
        found = [(divide(rest), rest) for rest in ways if holds([sizes[name] for name in rest], number) >= budget]
        division, open_sites = max(found, key=lambda one: one[0].worth)
    return division


def cull_by_latency(
    sizes: Mapping[str, int],
    budget: int,
    divide: Divide,
    latency: Callable[[Mapping[str, int]], float],
    least_worth: float,
) -> Division:
    """Cull one site after the other while that lowers the latency and the share `least_worth` of the worth is kept.

    Each time the site that saves most for what is lost. Greedy: other sets of sites may be faster still.

    Args:
        latency: from the counts per site to seconds.
        least_worth: 0 to 1, of the search's own division over all sites.
    """
    division = divide(sizes)
    floor, seconds = least_worth * division.worth, latency(division.counts)
    while True:
        found = []
        for rest in _without_one(division.live):
            if sum(sizes[name] for name in rest) < budget:
                continue
            option = divide(rest)
            saved, lost = seconds - latency(option.counts), max(division.worth - option.worth, 0.0)
            if saved > 0 and option.worth >= floor:
                found.append((saved / lost if lost else float("inf"), saved, option))
        if not found:
            return division
        division = max(found, key=lambda one: one[:2])[2]
        seconds = latency(division.counts)


def holds(sizes: Collection[int], number: int) -> int:
    """The ReLUs of the `number` largest sites."""
    return sum(sorted(sizes, reverse=True)[:number])


def fewest_sites(sizes: Collection[int], budget: int) -> int:
    """The least number of sites that hold `budget`."""
    return next(number for number in range(1, len(sizes) + 1) if holds(sizes, number) >= budget)


def _without_one(sites: Collection[str]) -> list[list[str]]:
    """Each way to leave out one of `sites`."""
    return [[other for other in sites if other != name] for name in sites]
