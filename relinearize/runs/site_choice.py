"""The `allocation` group of the config: which sites keep ReLUs, and how many, where the search does not decide alone.

Two of them cull whole sites (see relu/culling.py).
"""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from relinearize.errors import UserError, as_typed
from relinearize.private_inference.cost.presets import find_presets, predict
from relinearize.private_inference.cost.workload import REPLACEMENT_COUNTS, mask_workload
from relinearize.relu.culling import Divide, Division, cull_by_latency, fewest_sites, holds, keep_sites

FREE = "free"  # the name of the allocation that culls nothing


class SiteChoice:
    """An allocation of the config: divides the budget among the sites."""

    measured: Mapping[str, Any] = {}  # what decides beside the config, and so is part of the key of the result

    def check(self, sizes: Mapping[str, int], budget: int) -> None:
        """Raise UserError where it cannot hold `budget`; all sites can hold any."""

    def choose(self, sizes: Mapping[str, int], budget: int, divide: Divide) -> Division:
        """The division of `budget`; `divide` is the search's own, or the sensitivities'."""
        raise NotImplementedError


class BySensitivity(SiteChoice):
    """`allocation=shapley`: every site keeps its share by `allocation.sensitivity`, which `divide` goes by."""

    def __init__(self) -> None:
        """Takes no settings: the error for one names it."""

    def choose(self, sizes: Mapping[str, int], budget: int, divide: Divide) -> Division:
        return divide(sizes)


class FewerSites(SiteChoice):
    """`allocation=sites`: at most `live` sites keep ReLUs.

    live: a number of sites from 1 on, or, below 1, a share of all sites, rounded up.
    """

    def __init__(self, live: float) -> None:
        whole = isinstance(live, Integral) and not isinstance(live, bool) and live >= 1
        share = isinstance(live, Real) and not isinstance(live, Integral) and 0 < live < 1
        if not whole and not share:
            raise UserError(f"allocation.live={live} is impossible; give a number of sites, or a share of them below 1")
        self.live = live

    def number(self, sites: int) -> int:
        """How many of `sites` stay live at most."""
        return min(self.live, sites) if isinstance(self.live, Integral) else math.ceil(self.live * sites)

    def check(self, sizes: Mapping[str, int], budget: int) -> None:
        number = self.number(len(sizes))
        if holds(sizes.values(), number) < budget:
            raise UserError(
                f"allocation.live={self.live}: the {number} largest of the {len(sizes)} sites have "
                f"{holds(sizes.values(), number):,} ReLUs, and the budget is {budget:,}; "
                f"give at least {fewest_sites(sizes.values(), budget)} sites"
            )

    def choose(self, sizes: Mapping[str, int], budget: int, divide: Divide) -> Division:
        return keep_sites(sizes, budget, divide, self.number(len(sizes)))


# A count's former name, by which the runs of then are found: means were a part of each inference.
IN_KEYS = {"products": "layers", "means": "inference"}


class LowerLatency(SiteChoice):
    """`allocation=cost`: sites are culled while the predicted latency falls and enough of the search's score is kept.

    Args:
        preset, network: whose latency, see private_inference/cost/presets.py.
        worth: 0 to 1, the least share that is kept of the worth of the search's own division.
    """

    def __init__(self, preset: str, network: Any, worth: float) -> None:
        if isinstance(worth, bool) or not isinstance(worth, Real) or not 0 <= worth <= 1:
            raise UserError(f"allocation.worth={worth} is no share; give 0 to 1")
        try:
            found = find_presets(preset, network)
        except UserError as error:
            raise UserError(f"allocation: {error}") from None
        if len(found) > 1:
            raise UserError(
                f"allocation.preset={as_typed(preset)} allocation.network={as_typed(network)}: these are {len(found)} "
                "presets; give one protocol and one network, as cheetah and wan"
            )
        (self.preset,) = found
        if self.preset.network is None:
            raise UserError(
                f"allocation.preset={preset} is computation alone, which no culled site lowers; give a protocol's name"
            )
        self.worth = worth
        online = self.preset.protocol.online
        terms = {"seconds": online.seconds, "bytes": online.bytes, "messages": online.messages}
        self.measured = {}  # fitted anew, other sites may go; what stands at removed positions is there on any sites
        for name, one in terms.items():
            counts = self.measured[name] = {}
            for count, value in one.constants.items():
                if count not in REPLACEMENT_COUNTS:
                    former = IN_KEYS.get(count, count)
                    counts[former] = counts.get(former, 0) + value

    def choose(self, sizes: Mapping[str, int], budget: int, divide: Divide) -> Division:
        return cull_by_latency(sizes, budget, divide, self.latency(sizes), self.worth)

    def latency(self, sizes: Mapping[str, int]) -> Callable[[Mapping[str, int]], float]:
        """From the counts of the sites to the predicted seconds, online, that the ReLUs of an inference take."""

        def seconds(counts: Mapping[str, int]) -> float:
            workload = mask_workload((counts[name], size) for name, size in sizes.items())
            return predict(self.preset, workload).online.seconds  # the linear layers are the same for every mask

        return seconds
