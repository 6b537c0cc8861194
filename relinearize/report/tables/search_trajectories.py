"""The trajectory of each search to its mask, site by site, from the records: what searches.png draws.

SNL records the ReLUs that each site still has after every epoch; SENet and RLNet, whose counts are fixed beforehand,
the share of each site's positions at which the mask changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relinearize.records.run import Record
from relinearize.report.tables.pareto import Panel

KEPT, CHANGED = "relu/kept/", "mask/distance/"  # columns of a search's history, followed by the site's name


@dataclass
class SearchTrajectory:
    """One search. `values`: sites x rows of its history, shares of 0 to 1; NaN where a row has none."""

    panel: Panel
    network: str
    labels: list[str]
    asked: int
    seed: int
    kept: bool  # whether the values are shares of ReLUs kept, else of positions changed
    sites: list[str]
    epochs: np.ndarray
    values: np.ndarray

    @property
    def label(self) -> str:
        return ", ".join(self.labels)


def build_trajectories(panels: Sequence[Panel]) -> list[SearchTrajectory]:
    """One for each search that recorded its sites, in the order of the curves; runs may share a search.

    A walk down that passed several budgets is shown to its smallest one.
    """
    trajectories: dict[tuple, SearchTrajectory] = {}
    for position, panel in enumerate(panels):
        for series in panel.series:
            for record in series.records:
                trajectory = _trajectory(panel, series.network, series.method, record)
                if trajectory is None:
                    continue
                key = (position, record.stages["search"].key)
                before = trajectories.get(key)
                if before is not None:
                    trajectory.labels = list(dict.fromkeys([*before.labels, *trajectory.labels]))
                    if before.asked <= trajectory.asked:
                        before.labels = trajectory.labels
                        continue
                trajectories[key] = trajectory
    return sorted(trajectories.values(), key=lambda one: (one.labels[0], -one.asked, one.seed))


def _trajectory(panel: Panel, network: str, method: str, record: Record) -> SearchTrajectory | None:
    stage = record.stages.get("search")
    if stage is None or (record.submodel is not None and record.submodel.fraction < 1):
        return None
    names = [site.name for site in record.sites]
    found = {name for row in stage.history for name in row}
    prefix = next((prefix for prefix in (KEPT, CHANGED) if prefix + names[0] in found), None)
    if prefix is None:
        return None
    totals = np.array([site.total if prefix == KEPT else 1 for site in record.sites])
    columns = [[row.get(prefix + name) for name in names] for row in stage.history]
    epochs = np.array([row.get("epoch", index) for index, row in enumerate(stage.history)], dtype=float)
    values = np.array(columns, dtype=float).T / totals[:, None]
    return SearchTrajectory(
        panel, network, [method], record.budget.asked, record.seed, prefix == KEPT, names, epochs, values
    )
