"""pareto.png and its like: accuracy against ReLU count or a predicted cost, one panel per dataset."""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from pandas import DataFrame

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.figures import canvas
from relinearize.report.figures.published import name_published
from relinearize.report.figures.style import CURVE_MARKERS, LINE_STYLES, MARKERS, REPLACEMENT_WORDS, method_colours
from relinearize.report.tables.cost import preset_text
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import compact_count

NOTE_LETTERS = 105  # a line of small letters below it
LEVEL_SHADES = ("#22262c", "#5d6570", "#868d98", "#aab0b9")


@dataclass(frozen=True)
class Axis:
    """What the horizontal axis can be: the ReLUs, or what private inference is predicted to cost.

    `column`: of a panel's points and levels, NaN where not known; `text`: of a tick; `note`: below the label.
    """

    column: str
    label: str
    text: Callable[[float], str] = "{:g}".format
    note: str = ""


@dataclass(frozen=True)
class Measure:
    """What the vertical axis can be. `column`: of the runs; `name`: of points and levels, without `_mean`, `_std`."""

    column: str
    name: str
    label: str


ACCURACY = Measure("test", "accuracy", "test accuracy (%)")
# By the name of the figure's file.
PREDICTIONS = {
    "worst_class": Measure("worst_class", "worst_class", "test accuracy of the worst class (%)"),
    "calibration": Measure("ece", "ece", "expected calibration error (%)"),
}
LINE_OF_PAPER = ["paper", "method", "backbone", "replacement"]  # equal in the published points that a hair line joins
MOST = 60  # curves in a legend; the page has all
RELUS = Axis("relus", "ReLUs kept per image", compact_count)


def cost_axes(preset: Preset) -> dict[str, Axis]:
    """latency and, where the protocol sends anything, bytes."""
    note = preset_text(preset)
    axes = {"latency": Axis(f"{preset.name}_s", "predicted online latency, seconds per image", note=note)}
    if preset.network is not None:
        axes["bytes"] = Axis(f"{preset.name}_mb", "predicted online traffic, MB per image", note=note)
    return axes


def covered(axis: Axis, panels: Sequence[Panel], measure: Measure = ACCURACY) -> list[Panel]:
    """Those of `panels` that have anything to draw on the two axes."""
    columns = [axis.column, f"{measure.name}_mean"]
    return [panel for panel in panels if panel.points[columns].notna().all(axis=1).any()]


@canvas.styled
def draw_pareto(panels: Sequence[Panel], axis: Axis = RELUS, measure: Measure = ACCURACY) -> bytes:
    """The figure as PNG bytes (150 dots per inch; panels in rows of two). One panel at least has a place on `axis`."""
    colours = method_colours(method for panel in panels for method in panel.points["method"])
    panels = covered(axis, panels, measure)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    # A legend line more for every curve beyond three, so that many curves do not squeeze the axes.
    most_curves = max(panel.points["curve"].nunique() for panel in panels)
    height = (6.2 if columns == 1 else 5.6) + 0.42 * max(0, min(most_curves, MOST) - 3)
    figure = canvas.new_figure(8.8 if columns == 1 else 14.0, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, colours, axis, measure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    if axis is RELUS and measure is ACCURACY:  # names are placed on what is drawn
        figure.canvas.draw()
        for axes, panel in zip(grid.flat, panels, strict=False):
            name_published(axes, panel.published)
    return canvas.png(figure)


def _draw_panel(axes: Axes, panel: Panel, colours: dict[str, str], axis: Axis, measure: Measure) -> None:
    handles = _draw_published(axes, panel.published) if axis is RELUS and measure is ACCURACY else []
    curves = _draw_curves(axes, panel, colours, axis, measure)
    handles = curves[:MOST] + _draw_all_relu(axes, panel, axis, measure) + handles
    label = axis.label
    if axis is RELUS or canvas.wide(axes.dataLim.x0, axes.dataLim.x1):
        label += " (log scale)"
        canvas.log_axis(axes, axis.text)
    elif axes.get_xlim()[0] > 0:
        label += " (axis begins above 0)"
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(0, bottom), min(100, top + 0.04 * (top - bottom)))
    canvas.grid_lines(axes)
    axes.set_xlabel(label)
    canvas.note_below(axes, textwrap.fill(axis.note, NOTE_LETTERS))
    axes.set_ylabel(measure.label)
    canvas.panel_title(axes, panel.title, sorted(set(panel.points["network"])))
    down = -0.12 - 0.03 * len(textwrap.wrap(axis.note, NOTE_LETTERS))
    canvas.legend_below(axes, handles, down, fontsize=8.2, columnspacing=1.6, handletextpad=0.6, borderaxespad=0)


def _draw_published(axes: Axes, published: DataFrame) -> list[Line2D]:
    # A hair line says which points belong to one paper's method and network; our curves are from our records alone.
    for _, points in published.sort_values("relus", kind="stable").groupby(LINE_OF_PAPER, sort=False):
        axes.plot(points["relus"], points["accuracy"], color="#dde0e5", lw=0.8, zorder=1)
    handles = []
    for kind, marker in MARKERS.items():
        points = published[published["replacement"] == kind]
        if not points.empty:
            look = {"marker": marker, "markersize": 4.6, "markeredgewidth": 0.9, "color": canvas.GREY, "zorder": 2}
            look |= {"markerfacecolor": "white"} if kind == "identity" else {}
            label = f"published, {REPLACEMENT_WORDS[kind]}"
            handles += axes.plot(points["relus"], points["accuracy"], linestyle="none", label=label, **look)
    return handles


def _draw_curves(axes: Axes, panel: Panel, colours: dict[str, str], axis: Axis, measure: Measure) -> list[Line2D]:
    mean, deviation = f"{measure.name}_mean", f"{measure.name}_std"
    handles = []
    drawn: dict[str, int] = {}
    # Along the curve points keep the order of their budgets: a cost may fall where ReLUs grow.
    for curve, points in panel.points.groupby("curve", sort=False):
        method, label = points["method"].iloc[0], points["label"].iloc[0]
        colour = colours[method]
        turn = drawn[colour] = drawn.get(colour, -1) + 1  # methods may share a colour
        look = {"color": colour, "linestyle": LINE_STYLES[turn % len(LINE_STYLES)], "linewidth": 2}
        look |= {"marker": CURVE_MARKERS[turn // len(LINE_STYLES) % len(CURVE_MARKERS)], "markersize": 6}
        points = points.dropna(subset=[axis.column, mean])
        if points.empty:
            continue
        spread = points[deviation].fillna(0.0) if (points[deviation] > 0).any() else None
        bars = {"yerr": spread, "elinewidth": 1.4, "capsize": 3, "markeredgecolor": "white", "markeredgewidth": 0.9}
        axes.errorbar(points[axis.column], points[mean], zorder=5, **bars, **look)
        for point in points[points["n"] > 1].to_dict("records"):
            runs = panel.runs[(panel.runs["curve"] == curve) & (panel.runs["asked"] == point["asked"])]
            values = runs[measure.column].dropna()
            across = [point[axis.column]] * len(values)
            axes.plot(across, values, "o", color=colour, markersize=2.6, alpha=0.55, zorder=4)
        fewest, most = points["n"].min(), points["n"].max()
        seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
        label += f" (mean ± std, {seeds} seeds)" if most > 1 else ""
        handles.append(Line2D([], [], label=label, **look))
    return handles


def _draw_all_relu(axes: Axes, panel: Panel, axis: Axis, measure: Measure) -> list[Line2D]:
    """A dashed line at the value of each all-ReLU network, with a tick of the same kind at its place on the axis."""
    handles = []
    for index, level in enumerate(panel.levels.to_dict("records")):
        look = {"color": LEVEL_SHADES[index % len(LEVEL_SHADES)], "linestyle": (0, (4, 3))}
        value = level[f"{measure.name}_mean"]
        if math.isnan(value):  # a teacher of which only the accuracy was measured
            continue
        axes.axhline(value, linewidth=1.1, zorder=3, **look)
        label = f"all ReLUs ({compact_count(level['total'])}): {value:.1f} %"
        label += f", {level['label']}" if len(panel.levels) > 1 else ""
        handles += axes.plot(level[axis.column], value, marker="D", markersize=5.5, zorder=6, label=label, **look)
    return handles
