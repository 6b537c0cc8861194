"""What the mask figures show: the distinct masks of each network, sorted and ranked, with their sums over channels.

Runs that differ only after their search have the same mask, which is shown once and named after all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relinearize.records.run import Record
from relinearize.report.sources import Positions
from relinearize.report.tables.pareto import Panel


@dataclass(frozen=True)
class SiteMap:
    """One site of one mask. `kept`: H x W, how many of the channels keep their ReLU at each position."""

    name: str
    shape: tuple[int, int, int]
    kept: np.ndarray
    bits: bytes  # C x H x W in this order, eight positions to a byte, the first in the highest bit

    @property
    def share(self) -> np.ndarray:
        """The share of channels that keep their ReLU, 0 to 1, H x W."""
        return self.kept / self.shape[0]

    @classmethod
    def of(cls, name: str, positions: np.ndarray) -> "SiteMap":
        """A site without height and width is one position, one without width a row."""
        positions = positions.reshape(positions.shape[0], -1, positions.shape[-1] if positions.ndim > 1 else 1)
        return cls(name, positions.shape, positions.sum(axis=0), np.packbits(positions).tobytes())


@dataclass
class DrawnMask:
    """One mask, and the runs that have it. `turn`: 0 for the first seed of a method and budget, 1 for the second."""

    asked: int
    met: int
    sites: list[SiteMap]
    turn: int
    records: list[Record]
    labels: list[str]

    @property
    def label(self) -> str:
        """The names of its methods, with their variants."""
        return ", ".join(self.labels)


@dataclass
class MaskGroup:
    """The masks over the same sites on one dataset, the largest budgets first, then in the order of the curves."""

    panel: Panel
    network: str
    masks: list[DrawnMask]

    def ranked(self) -> list[DrawnMask]:
        """First seeds before second ones, then budgets that more methods were given, then smaller budgets."""
        methods: dict[int, set[str]] = {}
        for mask in self.masks:
            methods.setdefault(mask.asked, set()).update(mask.labels)
        return sorted(self.masks, key=lambda one: (one.turn, -len(methods[one.asked]), one.asked))


def build_groups(panels: Sequence[Panel], masks: dict[str, Positions]) -> list[MaskGroup]:
    """One group for each dataset and network with masks; `masks`: record key -> mask."""
    groups = []
    for panel in panels:
        runs = panel.runs[panel.runs["key"].isin(masks)].copy()
        runs["turn"] = runs.groupby(["curve", "asked"]).cumcount()
        runs["sites"] = [[SiteMap.of(name, kept) for name, kept in masks[key].items()] for key in runs["key"]]
        runs["shapes"] = [tuple((site.name, site.shape) for site in sites) for sites in runs["sites"]]
        runs["bits"] = [b"".join(site.bits for site in sites) for sites in runs["sites"]]
        for (network, _), own in runs.groupby(["network", "shapes"], sort=False):
            drawn = []
            for _, same in own.groupby(["asked", "bits"], sort=False):
                first, labels = next(same.itertuples()), list(same["method_name"].unique())
                turn, records = int(same["turn"].min()), list(same["record"])
                drawn.append(DrawnMask(first.asked, first.met, first.sites, turn, records, labels))
            groups.append(MaskGroup(panel, network, sorted(drawn, key=lambda one: (-one.asked, one.turn))))
    return groups
