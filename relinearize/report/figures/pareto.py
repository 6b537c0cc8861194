"""pareto.png and its like: accuracy against ReLU count or a predicted cost, one panel per dataset."""

import io
import math
import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from relinearize.report.figures.axes import RELUS, Axis, covered
from relinearize.report.figures.published_names import by_method, name_published
from relinearize.report.figures.style import (
    LINE_STYLES,
    MARKERS,
    REPLACEMENT_WORDS,
    log_ticks,
    method_colours,
    short_count,
)
from relinearize.report.tables.pareto import Panel, Series

GREY, GREY_TEXT = "#a3a9b3", "#6d7480"
PANEL_INCHES = 6.4  # usable width of a panel
NOTE_LETTERS = 105  # a line of small letters below it
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": "#9aa0a9",
    "axes.labelcolor": "#22262c",
    "text.color": "#22262c",
    "xtick.color": "#4a4f57",
    "ytick.color": "#4a4f57",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def draw_pareto(panels: Sequence[Panel], axis: Axis = RELUS) -> bytes:
    """The picture as PNG bytes (150 dots per inch; panels in rows of two). One panel at least has a place on `axis`."""
    colours = method_colours(series.method for panel in panels for series in panel.series)
    panels = covered(axis, panels)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    # A legend line more for every curve beyond three, so that many curves do not squeeze the axes.
    most_curves = max(len(panel.series) for panel in panels)
    height = (6.2 if columns == 1 else 5.6) + 0.42 * max(0, most_curves - 3)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(8.8 if columns == 1 else 14.0, height * rows), squeeze=False, layout="constrained"
        )
        try:
            for axes in grid.flat[len(panels) :]:
                axes.set_axis_off()
            for axes, panel in zip(grid.flat, panels, strict=False):
                _draw_panel(axes, panel, colours, axis)
            figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
            if axis.published:  # names are placed on what is drawn
                figure.canvas.draw()
                for axes, panel in zip(grid.flat, panels, strict=False):
                    name_published(axes, panel.published, GREY_TEXT)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=150, facecolor="white")
        finally:
            plt.close(figure)
    return file.getvalue()


def _draw_panel(axes: Axes, panel: Panel, colours: dict[str, str], axis: Axis) -> None:
    published = panel.published if axis.published else []
    # A hair line says which points belong to one paper's method; our curves are drawn from our records alone.
    for points in by_method(published).values():
        axes.plot(
            [point.relus for point in points], [point.accuracy for point in points], color="#dde0e5", lw=0.8, zorder=1
        )
    for point in published:
        axes.plot(
            point.relus,
            point.accuracy,
            marker=MARKERS[point.replacement],
            markersize=4.6,
            markerfacecolor="white" if point.replacement == "identity" else GREY,
            markeredgecolor=GREY,
            markeredgewidth=0.9,
            zorder=2,
        )
    handles = _draw_curves(axes, panel, colours, axis) + _draw_all_relu(axes, panel, axis)
    kinds = [kind for kind in MARKERS if any(point.replacement == kind for point in published)]
    handles += [
        Line2D(
            [],
            [],
            color=GREY,
            linestyle="none",
            marker=MARKERS[kind],
            markersize=5,
            markerfacecolor="white" if kind == "identity" else GREY,
            label=f"published, {REPLACEMENT_WORDS[kind]}",
        )
        for kind in kinds
    ]
    _set_axes(axes, panel, axis)
    # Below the axes: inside, it would cover points of one dataset or another.
    columns = legend_columns([str(handle.get_label()) for handle in handles])
    room = -0.12 - 0.03 * len(textwrap.wrap(axis.note, NOTE_LETTERS))
    below = {"loc": "upper left", "bbox_to_anchor": (-0.01, room), "ncols": columns, "frameon": False}
    axes.legend(handles=handles, fontsize=8.2, columnspacing=1.6, handletextpad=0.6, borderaxespad=0, **below)


def legend_columns(labels: Sequence[str]) -> int:
    """As many columns, up to three, as fit below a panel (about 0.063 inches a letter)."""
    for columns in (3, 2):
        rows = math.ceil(len(labels) / columns)
        longest = [max(map(len, labels[start : start + rows])) for start in range(0, len(labels), rows)]
        if sum(0.063 * length + 0.55 for length in longest) <= PANEL_INCHES:
            return columns
    return 1


def _draw_curves(axes: Axes, panel: Panel, colours: dict[str, str], axis: Axis) -> list[Line2D]:
    handles = []
    drawn: dict[str, int] = {}
    for series in panel.series:
        line = LINE_STYLES[drawn.get(series.method, 0) % len(LINE_STYLES)]
        drawn[series.method] = drawn.get(series.method, 0) + 1
        # Along the curve points keep the order of their budgets: a cost may fall where ReLUs grow.
        known = [point for point in sorted(series.points, key=lambda point: point.relus) if axis.at(point) is not None]
        places = [(axis.at(point), spread) for point in known if (spread := point.accuracy()) is not None]
        if not places:
            continue
        across, spreads = [place for place, _ in places], [spread for _, spread in places]
        colour = colours[series.method]
        axes.errorbar(
            across,
            [spread.mean for spread in spreads],
            yerr=[spread.std or 0.0 for spread in spreads] if any(spread.std for spread in spreads) else None,
            color=colour,
            linestyle=line,
            linewidth=2,
            marker="o",
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.9,
            elinewidth=1.4,
            capsize=3,
            zorder=5,
        )
        for point in known:
            values = [record.accuracy.test for record in point.records if record.accuracy.test is not None]
            if len(values) > 1:
                axes.plot(
                    [axis.at(point)] * len(values), values, "o", color=colour, markersize=2.6, alpha=0.55, zorder=4
                )
        handles.append(
            Line2D(
                [],
                [],
                color=colour,
                linestyle=line,
                linewidth=2,
                marker="o",
                markersize=6,
                label=_legend(panel, series),
            )
        )
    return handles


def _legend(panel: Panel, series: Series) -> str:
    most = max((spread.n for point in series.points if (spread := point.accuracy()) is not None), default=0)
    return panel.label(series) + (f" (mean ± std, {most} seeds)" if most > 1 else "")


def _draw_all_relu(axes: Axes, panel: Panel, axis: Axis) -> list[Line2D]:
    """A dashed line at the accuracy of each all-ReLU network, with a tick of the same kind at its place on the axis."""
    handles = []
    shades = ("#22262c", "#5d6570", "#868d98", "#aab0b9")
    levels = panel.all_relu_levels()
    for index, level in enumerate(levels):
        shade = shades[index % len(shades)]
        axes.axhline(level.accuracy.mean, color=shade, linestyle=(0, (4, 3)), linewidth=1.1, zorder=3)
        if (place := axis.of_level(level)) is not None:
            axes.plot(place, level.accuracy.mean, marker="D", markersize=5.5, color=shade, zorder=6)
        label = f"all ReLUs ({short_count(level.total)}): {level.accuracy.mean:.1f} %"
        if len(levels) > 1:
            label += f", {level.network}"
        handles.append(Line2D([], [], color=shade, linestyle=(0, (4, 3)), marker="D", markersize=5, label=label))
    return handles


def _set_axes(axes: Axes, panel: Panel, axis: Axis) -> None:
    label = axis.label
    if axis.logarithmic(axes.dataLim.x0, axes.dataLim.x1):
        label += " (log scale)"
        axes.set_xscale("log")
        ticks = log_ticks(*axes.get_xlim())
        axes.set_xticks(ticks, [axis.text(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
    elif axes.get_xlim()[0] > 0:
        label += " (axis begins above 0)"
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(0, bottom), min(100, top + 0.04 * (top - bottom)))
    axes.grid(color="#e8eaee", linewidth=0.8)
    axes.set_xlabel(label)
    small = {"fontsize": 8, "color": GREY_TEXT, "ha": "center", "va": "top"}
    below = {"xycoords": "axes fraction", "xytext": (0, -37), "textcoords": "offset points"}
    axes.annotate(textwrap.fill(axis.note, NOTE_LETTERS), (0.5, 0), **below, **small)
    axes.set_ylabel("test accuracy (%)")
    networks = sorted({series.network for series in panel.series})
    axes.set_title(panel.title, loc="left", fontweight="bold", fontsize=12, pad=20 if len(networks) == 1 else 10)
    if len(networks) == 1:
        axes.text(0, 1.015, networks[0], transform=axes.transAxes, fontsize=9, color=GREY_TEXT, va="bottom")
