"""searches.png: the trajectory of each search to its mask, one heat map of sites x epochs per search."""

import io
import math
import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from relinearize.report.figures.pareto import GREY_TEXT, STYLE
from relinearize.report.figures.style import SHARE_COLOURS, SHARE_TICKS, short_count
from relinearize.report.tables.search_trajectories import SearchTrajectory

MOST = 12  # heat maps; beyond them, further seeds and then larger budgets are left out
COLUMNS = 3
MAP = LinearSegmentedColormap.from_list("share", SHARE_COLOURS)
NORM = PowerNorm(0.5, 0, 1)  # as in masks.png: small shares stay visible


def chosen_trajectories(trajectories: Sequence[SearchTrajectory]) -> list[SearchTrajectory]:
    """First seeds before others, then smaller budgets, at most MOST, in the order given."""
    first: dict[tuple, int] = {}
    for trajectory in trajectories:
        kind = _kind(trajectory)
        first[kind] = min(first.get(kind, trajectory.seed), trajectory.seed)
    later = [trajectory.seed != first[_kind(trajectory)] for trajectory in trajectories]
    order = sorted(range(len(trajectories)), key=lambda index: (later[index], trajectories[index].asked))
    return [trajectories[index] for index in sorted(order[:MOST])]


def _kind(one: SearchTrajectory) -> tuple:
    return (id(one.panel), one.network, one.label, one.asked)


def draw_searches(trajectories: Sequence[SearchTrajectory]) -> bytes:
    """The picture as PNG bytes."""
    chosen = chosen_trajectories(trajectories)
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    sites = max(len(trajectory.sites) for trajectory in chosen)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(max(7.5, 4.6 * columns), 0.6 + rows * (1.5 + 0.15 * sites)),
            squeeze=False,
            layout="constrained",
        )
        try:
            for axes in grid.flat[len(chosen) :]:
                axes.set_axis_off()
            for axes, trajectory in zip(grid.flat, chosen, strict=False):
                _draw_trajectory(axes, trajectory)
            bar = figure.colorbar(ScalarMappable(NORM, MAP), ax=grid, aspect=40, pad=0.015)
            bar.set_ticks(SHARE_TICKS, labels=[f"{100 * tick:g} %" for tick in SHARE_TICKS], fontsize=8)
            bar.outline.set_visible(False)
            title = "The trajectory of each search to its mask, site by site"
            if len(chosen) < len(trajectories):
                title += f" ({len(chosen)} of {len(trajectories)} searches)"
            figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=120, facecolor="white")
        finally:
            plt.close(figure)
    return file.getvalue()


def _draw_trajectory(axes: Axes, trajectory: SearchTrajectory) -> None:
    # Snapshots on the trajectory may follow each other within an epoch, so columns have widths of their own.
    edges = np.concatenate([trajectory.epochs, [trajectory.epochs[-1] + 1.0]])
    axes.pcolormesh(edges, np.arange(len(trajectory.sites) + 1), trajectory.values, cmap=MAP, norm=NORM, shading="flat")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(trajectory.sites)) + 0.5, labels=trajectory.sites, fontsize=6.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("epoch", fontsize=8)
    what = "share of ReLUs kept" if trajectory.kept else "share of positions that changed"
    said = textwrap.fill(f"{trajectory.label}: to {short_count(trajectory.asked)} ReLUs", 46)
    axes.set_title(said, fontsize=9.5, loc="left", pad=16)
    axes.annotate(
        f"{what}; {trajectory.panel.title}, {trajectory.network}",
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=7,
        color=GREY_TEXT,
    )
