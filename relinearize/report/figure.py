"""pareto.png: accuracy against ReLU count, one panel per dataset."""

import io
import math
from collections.abc import Sequence
from itertools import pairwise

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from relinearize.report.look import MARKERS, REPLACEMENT_WORDS, SHORT_WORDS, log_ticks, method_colours, short_count
from relinearize.report.names import place_names
from relinearize.report.pareto import Panel, Series
from relinearize.report.published import PublishedPoint

GREY, GREY_TEXT = "#a3a9b3", "#6d7480"
PANEL_INCHES = 6.4  # usable width of a panel
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
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


def draw_pareto(panels: Sequence[Panel]) -> bytes:
    """The picture as PNG bytes (150 dots per inch; panels in rows of two)."""
    colours = method_colours(series.method for panel in panels for series in panel.series)
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
                _draw_panel(axes, panel, colours)
            figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
            figure.canvas.draw()
            for axes, panel in zip(grid.flat, panels, strict=False):
                _name_published(axes, panel.published)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=150, facecolor="white")
        finally:
            plt.close(figure)
    return file.getvalue()


def _draw_panel(axes: Axes, panel: Panel, colours: dict[str, str]) -> None:
    published = panel.published
    # A hair line says which points belong to one paper's method; our curves are drawn from our records alone.
    for points in _by_method(published).values():
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
    handles = _draw_curves(axes, panel, colours) + _draw_all_relu(axes, panel)
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
    _set_axes(axes, panel)
    # Below the axes: inside, it would cover points of one dataset or another.
    columns = _legend_columns([str(handle.get_label()) for handle in handles])
    below = {"loc": "upper left", "bbox_to_anchor": (-0.01, -0.12), "ncols": columns, "frameon": False}
    axes.legend(handles=handles, fontsize=8.2, columnspacing=1.6, handletextpad=0.6, borderaxespad=0, **below)


def _legend_columns(labels: Sequence[str]) -> int:
    """As many columns, up to three, as fit below a panel (about 0.063 inches a letter)."""
    for columns in (3, 2):
        rows = math.ceil(len(labels) / columns)
        longest = [max(map(len, labels[start : start + rows])) for start in range(0, len(labels), rows)]
        if sum(0.063 * length + 0.55 for length in longest) <= PANEL_INCHES:
            return columns
    return 1


def _draw_curves(axes: Axes, panel: Panel, colours: dict[str, str]) -> list[Line2D]:
    handles = []
    drawn: dict[str, int] = {}
    for series in panel.series:
        line = _LINES[drawn.get(series.method, 0) % len(_LINES)]
        drawn[series.method] = drawn.get(series.method, 0) + 1
        places = sorted((point.relus, spread) for point in series.points if (spread := point.accuracy()) is not None)
        if not places:
            continue
        counts, spreads = [count for count, _ in places], [spread for _, spread in places]
        colour = colours[series.method]
        axes.errorbar(
            counts,
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
        for point in series.points:
            values = [record.accuracy.test for record in point.records if record.accuracy.test is not None]
            if len(values) > 1:
                axes.plot([point.relus] * len(values), values, "o", color=colour, markersize=2.6, alpha=0.55, zorder=4)
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


def _draw_all_relu(axes: Axes, panel: Panel) -> list[Line2D]:
    """A dashed line at the accuracy of each all-ReLU network, with a tick of the same kind at its ReLU total."""
    handles = []
    shades = ("#22262c", "#5d6570", "#868d98", "#aab0b9")
    levels = panel.all_relu_levels()
    for index, level in enumerate(levels):
        shade = shades[index % len(shades)]
        axes.axhline(level.accuracy.mean, color=shade, linestyle=(0, (4, 3)), linewidth=1.1, zorder=3)
        axes.plot(level.total, level.accuracy.mean, marker="D", markersize=5.5, color=shade, zorder=6)
        label = f"all ReLUs ({short_count(level.total)}): {level.accuracy.mean:.1f} %"
        if len(levels) > 1:
            label += f", {level.network}"
        handles.append(Line2D([], [], color=shade, linestyle=(0, (4, 3)), marker="D", markersize=5, label=label))
    return handles


def _set_axes(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = log_ticks(low, high)
    axes.set_xticks(ticks, [short_count(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(0, bottom), min(100, top + 0.04 * (top - bottom)))
    axes.grid(color="#e8eaee", linewidth=0.8)
    axes.set_xlabel("ReLUs kept per image (log scale)")
    axes.set_ylabel("test accuracy (%)")
    networks = sorted({series.network for series in panel.series})
    axes.set_title(panel.title, loc="left", fontweight="bold", fontsize=12, pad=20 if len(networks) == 1 else 10)
    if len(networks) == 1:
        axes.text(0, 1.015, networks[0], transform=axes.transAxes, fontsize=9, color=GREY_TEXT, va="bottom")


def _name_published(axes: Axes, published: Sequence[PublishedPoint]) -> None:
    """Write each published method's name once, in small grey letters."""
    if not published:
        return
    renderer = axes.figure.canvas.get_renderer()
    groups = _by_method(published)
    several = {method for method, _ in groups if sum(name == method for name, _ in groups) > 1}
    # Methods with few points have few places to stand: they choose first.
    ordered = sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))
    names = [f"{method} ({SHORT_WORDS[kind]})" if method in several else method for (method, kind), _ in ordered]
    texts = [axes.text(0, 0, name, fontsize=7, color=GREY_TEXT, zorder=2.5, style="italic") for name in names]
    extents = [text.get_window_extent(renderer) for text in texts]
    frame = axes.get_window_extent(renderer)
    boxes = place_names(
        [(extent.width, extent.height) for extent in extents],
        [_display(axes, points) for _, points in ordered],
        _display(axes, published),
        _own_marks(axes),
        (frame.x0, frame.y0, frame.x1, frame.y1),
        axes.figure.dpi / 72,
    )
    for text, box in zip(texts, boxes, strict=True):
        baseline = box[1] + 0.2 * (box[3] - box[1])
        text.set_position(axes.transData.inverted().transform((box[0], baseline)))


def _display(axes: Axes, points: Sequence[PublishedPoint]) -> np.ndarray:
    return axes.transData.transform([(point.relus, point.accuracy) for point in points])


def _by_method(published: Sequence[PublishedPoint]) -> dict[tuple[str, str], list[PublishedPoint]]:
    groups: dict[tuple[str, str], list[PublishedPoint]] = {}
    for point in sorted(published, key=lambda point: point.relus):
        groups.setdefault((point.method, point.replacement), []).append(point)
    return groups


def _own_marks(axes: Axes) -> np.ndarray:
    """Display coordinates (N x 2) along everything that a name must not cover: our curves, the all-ReLU lines."""
    marks = []
    for line in axes.get_lines():
        if line.get_zorder() < 3:
            continue
        ends = line.get_transform().transform(line.get_xydata())
        marks.append(ends)
        for start, end in pairwise(ends):
            pieces = max(2, int(np.hypot(*(end - start)) / 6))
            marks.append(start + (end - start) * np.linspace(0, 1, pieces)[:, None])
    return np.vstack(marks) if marks else np.empty((0, 2))
