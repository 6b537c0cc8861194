"""searches.png: the trajectory of each search, one heat map of sites x epochs per search, from the records.

SNL records the ReLUs that each site still has after every epoch; SENet and RLNet, whose counts are fixed beforehand,
the share of each site's kept ReLUs that moved.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from relinearize.records.run import Record
from relinearize.report.figures.canvas import GREY_TEXT, MAP, NORM, heading, new_figure, png, styled
from relinearize.report.figures.style import SHARE_TICKS
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import compact_count, network_name

KEPT, CHANGED = "relu/kept/", "mask/distance/"  # columns of a search's history, followed by the site's name
MOST = 12  # heat maps; beyond them, further seeds and then larger budgets are left out
COLUMNS = 3


def build_trajectories(panels: Sequence[Panel]) -> pd.DataFrame:
    """A row for each search that recorded its sites, down to its smallest budget; by method, falling budget and seed.

    `labels`: the methods that share it. `values`: sites x rows of its history, shares of 0 to 1 of ReLUs kept (`kept`)
    or of the kept ones that moved; NaN where a row has none.
    """
    found: dict[str, list[Record]] = {}
    for record in pd.concat([panel.runs["record"] for panel in panels]):
        if _recorded(record) is not None and not record.narrower:
            found.setdefault(record.stages["search"].key, []).append(record)
    rows = map(_trajectory, found.values())
    return pd.DataFrame(sorted(rows, key=lambda row: (row["labels"][0], -row["asked"], row["seed"])))


def _recorded(record: Record) -> str | None:
    """KEPT or CHANGED, whichever the search recorded of its sites."""
    history = record.stages["search"].history if "search" in record.stages else []
    columns = {name for row in history for name in row}
    return next((prefix for prefix in (KEPT, CHANGED) if prefix + record.sites[0].name in columns), None)


def _trajectory(records: Sequence[Record]) -> dict[str, Any]:
    """Of runs that share a search, which may pass several budgets."""
    record = min(records, key=lambda one: one.budget.asked)
    prefix, history, names = _recorded(record), record.stages["search"].history, [site.name for site in record.sites]
    totals = np.array([site.total if prefix == KEPT else 1 for site in record.sites])
    columns = np.array([[row.get(prefix + name) for name in names] for row in history], dtype=float)
    labels = list(dict.fromkeys(one.method.name for one in records))
    return {
        "title": record.dataset.title,
        "network": network_name(record.backbone.name, record.backbone.width, record.backbone.convention),
        "labels": labels,
        "label": ", ".join(labels),
        "asked": record.budget.asked,
        "seed": record.seed,
        "kept": prefix == KEPT,
        "sites": names,
        "epochs": np.array([row.get("epoch", index) for index, row in enumerate(history)], dtype=float),
        "values": columns.T / totals[:, None],
    }


def chosen_trajectories(trajectories: pd.DataFrame) -> pd.DataFrame:
    """First seeds before others, then smaller budgets, at most MOST, in the order given."""
    first = trajectories.groupby(["title", "network", "label", "asked"])["seed"].transform("min")
    chosen = trajectories.assign(later=trajectories["seed"] != first)
    return chosen.sort_values(["later", "asked"], kind="stable").head(MOST).sort_index()


@styled
def draw_searches(trajectories: pd.DataFrame) -> bytes:
    """The figure as PNG bytes."""
    chosen = chosen_trajectories(trajectories)
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    sites = max(map(len, chosen["sites"]))
    figure = new_figure(max(7.5, 4.6 * columns), 0.6 + rows * (1.5 + 0.15 * sites))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, chosen.itertuples(), strict=False):
        _draw_trajectory(axes, one)
    bar = figure.colorbar(ScalarMappable(NORM, MAP), ax=grid, aspect=40, pad=0.015)
    bar.set_ticks(SHARE_TICKS, labels=[f"{100 * tick:g} %" for tick in SHARE_TICKS], fontsize=8)
    bar.outline.set_visible(False)
    shown = f" ({len(chosen)} of {len(trajectories)} searches)" if len(chosen) < len(trajectories) else ""
    heading(figure, f"Search trajectories, site by site{shown}")
    return png(figure, 120)


def _draw_trajectory(axes: Axes, one: Any) -> None:
    # Several snapshots may be taken within an epoch, so columns have widths of their own.
    edges = np.concatenate([one.epochs, [one.epochs[-1] + 1.0]])
    axes.pcolormesh(edges, np.arange(len(one.sites) + 1), one.values, cmap=MAP, norm=NORM, shading="flat")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(one.sites)) + 0.5, labels=one.sites, fontsize=6.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("epoch", fontsize=8)
    what = "share of ReLUs kept" if one.kept else "share of kept ReLUs that moved"
    title = textwrap.fill(f"{one.label}: to {compact_count(one.asked)} ReLUs", 46)
    axes.set_title(title, fontsize=9.5, loc="left", pad=16)
    above = {"xytext": (0, 5), "xycoords": "axes fraction", "textcoords": "offset points"}
    note = axes.annotate(f"{what}; {one.title}, {one.network}", (0, 1), fontsize=7, color=GREY_TEXT, **above)
    note.set_in_layout(False)  # its length would take the width from the map
