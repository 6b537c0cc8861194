"""What the mask pictures show: the distinct masks of each network, sorted and ranked, with their sums over channels.

Runs that differ only after their search have the same mask, which is shown once and named after all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relinearize.records.run import Record
from relinearize.report.sources import Positions
from relinearize.report.tables.pareto import Panel, Series


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
class MaskPicture:
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
    pictures: list[MaskPicture]

    def ranked(self) -> list[MaskPicture]:
        """First seeds before second ones, then budgets that more methods were given, then smaller budgets."""
        methods: dict[int, set[str]] = {}
        for picture in self.pictures:
            methods.setdefault(picture.asked, set()).update(picture.labels)
        return sorted(self.pictures, key=lambda one: (one.turn, -len(methods[one.asked]), one.asked))


def build_groups(panels: Sequence[Panel], masks: dict[str, Positions]) -> list[MaskGroup]:
    """One group for each dataset and network with masks; `masks`: record key -> mask."""
    groups: dict[tuple, MaskGroup] = {}
    pictures: dict[tuple, MaskPicture] = {}
    for position, panel in enumerate(panels):
        for series in panel.series:
            for point in series.points:
                for turn, record in enumerate(one for one in point.records if one.key in masks):
                    sites = [SiteMap.of(name, kept) for name, kept in masks[record.key].items()]
                    network = (position, series.network, tuple((site.name, site.shape) for site in sites))
                    group = groups.setdefault(network, MaskGroup(panel, series.network, []))
                    same = (network, record.budget.asked, b"".join(site.bits for site in sites))
                    if same not in pictures:
                        budget = record.budget
                        pictures[same] = MaskPicture(budget.asked, budget.met, sites, turn, [], [])
                        group.pictures.append(pictures[same])
                    picture = pictures[same]
                    picture.turn = min(picture.turn, turn)
                    picture.records.append(record)
                    picture.labels = list(dict.fromkeys([*picture.labels, _label(series)]))
    for group in groups.values():
        group.pictures.sort(key=lambda one: (-one.asked, one.turn))
    return list(groups.values())


def _label(series: Series) -> str:
    return series.method + (f" [{series.variant}]" if series.variant else "")
