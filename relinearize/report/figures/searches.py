"""searches.png: the trajectory of each search, one heat map of sites x epochs per search."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from relinearize.report.figures.canvas import GREY_TEXT, heading, new_figure, png, styled
from relinearize.report.figures.style import SHARE_COLOURS, SHARE_TICKS
from relinearize.report.tables.search_trajectories import SearchTrajectory
from relinearize.report.tables.text import compact_count

MOST = 12  # heat maps; beyond them, further seeds and then larger budgets are left out
COLUMNS = 3
MAP = LinearSegmentedColormap.from_list("share", SHARE_COLOURS)
NORM = PowerNorm(0.5, 0, 1)  # as in masks.png: small shares stay visible


def chosen_trajectories(trajectories: Sequence[SearchTrajectory]) -> list[SearchTrajectory]:
    """First seeds before others, then smaller budgets, at most MOST, in the order given."""
    kinds = [(one.title, one.network, one.label, one.asked) for one in trajectories]
    first: dict[tuple, int] = {}
    for kind, one in zip(kinds, trajectories, strict=True):
        first[kind] = min(first.get(kind, one.seed), one.seed)
    later = [one.seed != first[kind] for kind, one in zip(kinds, trajectories, strict=True)]
    order = sorted(range(len(kinds)), key=lambda index: (later[index], trajectories[index].asked))
    return [trajectories[index] for index in sorted(order[:MOST])]


@styled
def draw_searches(trajectories: Sequence[SearchTrajectory]) -> bytes:
    """The figure as PNG bytes."""
    chosen = chosen_trajectories(trajectories)
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    sites = max(len(one.sites) for one in chosen)
    figure = new_figure(max(7.5, 4.6 * columns), 0.6 + rows * (1.5 + 0.15 * sites))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, chosen, strict=False):
        _draw_trajectory(axes, one)
    bar = figure.colorbar(ScalarMappable(NORM, MAP), ax=grid, aspect=40, pad=0.015)
    bar.set_ticks(SHARE_TICKS, labels=[f"{100 * tick:g} %" for tick in SHARE_TICKS], fontsize=8)
    bar.outline.set_visible(False)
    shown = f" ({len(chosen)} of {len(trajectories)} searches)" if len(chosen) < len(trajectories) else ""
    heading(figure, f"Search trajectories, site by site{shown}")
    return png(figure, 120)


def _draw_trajectory(axes: Axes, one: SearchTrajectory) -> None:
    # Several snapshots may be taken within an epoch, so columns have widths of their own.
    edges = np.concatenate([one.epochs, [one.epochs[-1] + 1.0]])
    axes.pcolormesh(edges, np.arange(len(one.sites) + 1), one.values, cmap=MAP, norm=NORM, shading="flat")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(one.sites)) + 0.5, labels=one.sites, fontsize=6.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("epoch", fontsize=8)
    what = "share of ReLUs kept" if one.kept else "share of positions that changed"
    title = textwrap.fill(f"{one.label}: to {compact_count(one.asked)} ReLUs", 46)
    axes.set_title(title, fontsize=9.5, loc="left", pad=16)
    above = {"xytext": (0, 5), "xycoords": "axes fraction", "textcoords": "offset points"}
    note = axes.annotate(f"{what}; {one.title}, {one.network}", (0, 1), fontsize=7, color=GREY_TEXT, **above)
    note.set_in_layout(False)  # its length would take the width from the map
