"""pareto.png: accuracy against ReLU count, one panel per dataset."""

import io
import math
from collections.abc import Sequence
from itertools import pairwise

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from relinearize.report.look import MARKERS, REPLACEMENT_WORDS, log_ticks, method_colours, short_count
from relinearize.report.pareto import Panel, Series
from relinearize.report.published import PublishedPoint, published_for

GREY, GREY_TEXT = "#a3a9b3", "#6d7480"
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
_STYLE = {
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
    width, height = (8.8, 6.2) if columns == 1 else (14.0, 5.6 * rows)
    with plt.rc_context(_STYLE):
        figure, grid = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
        try:
            for axes in grid.flat[len(panels) :]:
                axes.set_axis_off()
            for axes, panel in zip(grid.flat, panels, strict=False):
                _draw_panel(axes, panel, colours)
            figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
            figure.canvas.draw()
            for axes, panel in zip(grid.flat, panels, strict=False):
                _name_published(axes, published_for(panel.dataset, panel.image_size))
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=150, facecolor="white")
        finally:
            plt.close(figure)
    return file.getvalue()


def _draw_panel(axes: Axes, panel: Panel, colours: dict[str, str]) -> None:
    published = published_for(panel.dataset, panel.image_size)
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
    below = {"loc": "upper left", "bbox_to_anchor": (-0.01, -0.12), "ncols": 3, "frameon": False}
    axes.legend(handles=handles, fontsize=8.2, columnspacing=1.6, handletextpad=0.6, borderaxespad=0, **below)


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
    levels: dict[tuple, tuple[Series, float]] = {}
    for series in panel.series:
        if (spread := series.all_relu) is not None:
            levels.setdefault((series.network, round(spread.mean, 2)), (series, spread.mean))
    for shade, (series, level) in zip(("#22262c", "#5d6570", "#868d98") * len(levels), levels.values(), strict=False):
        axes.axhline(level, color=shade, linestyle=(0, (4, 3)), linewidth=1.1, zorder=3)
        axes.plot(series.total, level, marker="D", markersize=5.5, color=shade, zorder=6)
        label = f"all ReLUs ({short_count(series.total)}): {level:.1f} %"
        if len({one.network for one in panel.series}) > 1:
            label += f", {series.network}"
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
    """Write each published method's name once, beside the point where it covers least of everything else."""
    if not published:
        return
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    unit = axes.figure.dpi / 72
    grey_dots = [tuple(axes.transData.transform((point.relus, point.accuracy))) for point in published]
    our_dots = _our_dots(axes)
    taken: list[Bbox] = []
    groups = _by_method(published)
    for (method, replacement), points in sorted(groups.items(), key=lambda item: (len(item[1]), item[0])):
        several = len({other for name, other in groups if name == method}) > 1
        name = f"{method} ({REPLACEMENT_WORDS[replacement]})" if several else method
        text = axes.text(0, 0, name, fontsize=7, color=GREY_TEXT, zorder=2.5, style="italic")
        size = text.get_window_extent(renderer)

        def cost(box: Bbox) -> float:
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
            on_grey = sum(_inside(box.padded(2 * unit), dot) for dot in grey_dots)
            on_ours = sum(_inside(box.padded(2 * unit), dot) for dot in our_dots)
            return on_grey + 3 * on_ours + 6 * sum(box.overlaps(other) for other in taken) + 30 * outside

        candidates = []
        for point in points:
            x, y = axes.transData.transform((point.relus, point.accuracy))
            for far in (1, 2.5):
                for sideways, upwards in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, 1), (1, 1), (-1, -1)):
                    gap = (4 if upwards and sideways else 5) * unit * far
                    left = x + (gap if sideways > 0 else -gap - size.width if sideways < 0 else -size.width / 2)
                    down = y + (gap if upwards > 0 else -gap - size.height if upwards < 0 else -size.height / 2)
                    box = Bbox.from_bounds(left, down, size.width, size.height)
                    candidates.append((cost(box) + 0.6 * (far > 1), len(candidates), box))
        best = min(candidates)[2]
        text.set_position(axes.transData.inverted().transform((best.x0, best.y0 + 0.2 * size.height)))
        taken.append(best)


def _by_method(published: Sequence[PublishedPoint]) -> dict[tuple[str, str], list[PublishedPoint]]:
    groups: dict[tuple[str, str], list[PublishedPoint]] = {}
    for point in sorted(published, key=lambda point: point.relus):
        groups.setdefault((point.method, point.replacement), []).append(point)
    return groups


def _our_dots(axes: Axes) -> list[tuple[float, float]]:
    """Display coordinates along everything of ours that a name must not cover: the curves and the all-ReLU lines."""
    dots = []
    for line in axes.get_lines():
        if line.get_zorder() < 3:
            continue
        ends = [tuple(end) for end in line.get_transform().transform(line.get_xydata())]
        dots += ends
        for a, b in pairwise(ends):
            pieces = max(2, int(math.dist(a, b) / 6))
            dots += [(a[0] + (b[0] - a[0]) * i / pieces, a[1] + (b[1] - a[1]) * i / pieces) for i in range(pieces)]
    return dots


def _inside(box: Bbox, dot: tuple[float, float]) -> bool:
    return box.x0 <= dot[0] <= box.x1 and box.y0 <= dot[1] <= box.y1
