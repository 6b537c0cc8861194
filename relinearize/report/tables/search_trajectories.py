"""The trajectory of each search, site by site, from the records: what searches.png draws.

SNL records the ReLUs that each site still has after every epoch; SENet and RLNet, whose counts are fixed beforehand,
the share of each site's positions at which the mask changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relinearize.records.run import Record
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import network_name

KEPT, CHANGED = "relu/kept/", "mask/distance/"  # columns of a search's history, followed by the site's name


@dataclass(frozen=True, eq=False)
class SearchTrajectory:
    """One search down to its smallest budget. `labels`: the methods that share it.

    `values`: sites x rows of its history, shares of 0 to 1 of ReLUs kept (`kept`) or of positions changed; NaN where a
    row has none.
    """

    title: str
    network: str
    labels: tuple[str, ...]
    asked: int
    seed: int
    kept: bool
    sites: tuple[str, ...]
    epochs: np.ndarray
    values: np.ndarray

    @property
    def label(self) -> str:
        return ", ".join(self.labels)


def build_trajectories(panels: Sequence[Panel]) -> list[SearchTrajectory]:
    """One for each search that recorded its sites, sorted by method, falling budget and seed."""
    found: dict[str, list[Record]] = {}
    for record in (record for panel in panels for record in panel.runs["record"]):
        narrower = record.submodel is not None and record.submodel.fraction < 1
        if _recorded(record) is not None and not narrower:
            found.setdefault(record.stages["search"].key, []).append(record)
    return sorted(map(_trajectory, found.values()), key=lambda one: (one.labels[0], -one.asked, one.seed))


def _recorded(record: Record) -> str | None:
    """KEPT or CHANGED, whichever the search recorded of its sites."""
    history = record.stages["search"].history if "search" in record.stages else []
    columns = {name for row in history for name in row}
    return next((prefix for prefix in (KEPT, CHANGED) if prefix + record.sites[0].name in columns), None)


def _trajectory(records: Sequence[Record]) -> SearchTrajectory:
    """Of runs that share a search, which may pass several budgets."""
    record = min(records, key=lambda one: one.budget.asked)
    prefix, history, names = _recorded(record), record.stages["search"].history, [site.name for site in record.sites]
    totals = np.array([site.total if prefix == KEPT else 1 for site in record.sites])
    columns = np.array([[row.get(prefix + name) for name in names] for row in history], dtype=float)
    return SearchTrajectory(
        title=record.dataset.title,
        network=network_name(record.backbone.name, record.backbone.width, record.backbone.convention),
        labels=tuple(dict.fromkeys(one.method.name for one in records)),
        asked=record.budget.asked,
        seed=record.seed,
        kept=prefix == KEPT,
        sites=tuple(names),
        epochs=np.array([row.get("epoch", index) for index, row in enumerate(history)], dtype=float),
        values=columns.T / totals[:, None],
    )
