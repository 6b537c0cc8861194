"""inference.png: accuracy against what was measured in private inference."""

import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from relinearize.private_inference.cost.prediction import PhaseCost
from relinearize.report.figures.axes import wide
from relinearize.report.figures.canvas import GREY_TEXT, grid_lines, log_axis, new_figure, note_below, png, styled
from relinearize.report.figures.pareto import legend_columns
from relinearize.report.figures.style import CURVE_COLOURS, LINE_STYLES
from relinearize.report.tables.inference import Inference, curves, megabytes

LEGEND_LINE = 0.18  # inches below the axes for each curve
# Label, what was measured, what the counts predict.
Measure = tuple[str, Callable[[Inference], float], Callable[[PhaseCost], float]]
TRAFFIC: Measure = (
    "steady traffic, MB per image",
    lambda one: megabytes(one.record.steady),
    lambda cost: cost.bytes / 1e6,
)
LATENCY: Measure = (
    "steady latency, seconds per image",
    lambda one: one.record.steady.median_seconds,
    lambda cost: cost.seconds,
)


@styled
def draw_inference(inferences: Sequence[Inference]) -> bytes:
    """Accuracy against measured bytes and latency as PNG bytes, a row per dataset. One accuracy at least is known."""
    rows: dict[str, list[Inference]] = {}
    for one in inferences:
        if one.accuracy is not None:
            rows.setdefault(one.title, []).append(one)
    longest = max(len(curves(group)) for group in rows.values())
    figure = new_figure(12.4, (4.6 + LEGEND_LINE * (longest + 1)) * len(rows))
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), (title, group) in zip(grid, rows.items(), strict=True):
        handles = _draw_curves(left, group, *TRAFFIC)
        _draw_curves(right, group, *LATENCY)
        left.set_title(title, loc="left", fontweight="bold", fontsize=12)
        left.set_ylabel("test accuracy in plaintext (%)")
        hollow = Line2D([], [], color=GREY_TEXT, linestyle="none", marker="o", markerfacecolor="white")
        hollow.set_label("hollow: predicted from counts, without the engine")
        columns = legend_columns([str(handle.get_label()) for handle in [*handles, hollow]])
        place = {"loc": "upper left", "bbox_to_anchor": (-0.01, -0.14), "frameon": False, "ncols": columns}
        left.legend(handles=[*handles, hollow], fontsize=8.2, **place)
        note_below(right, textwrap.fill(_load(group), 85), across=0, down=-40, ha="left")
    return png(figure, 130)


def _draw_curves(
    axes: Axes,
    group: Sequence[Inference],
    label: str,
    measured: Callable[[Inference], float],
    predicted: Callable[[PhaseCost], float],
) -> list[Line2D]:
    handles, found = [], curves(group)
    settings = list(dict.fromkeys(setting for setting, _ in found))
    kinds = list(dict.fromkeys(kind for _, kind in found))
    for (setting, kind), points in found.items():
        look = {
            "color": CURVE_COLOURS[settings.index(setting) % len(CURVE_COLOURS)],
            "linestyle": LINE_STYLES[kinds.index(kind) % len(LINE_STYLES)],
        }
        across, accuracy = [measured(one) for one in points], [one.accuracy for one in points]
        named = ", ".join(filter(None, (setting, kind)))
        handles += axes.plot(across, accuracy, lw=2, marker="o", markersize=6, label=named, zorder=3, **look)
        meant = [(predicted(cost), one.accuracy) for one in points if (cost := one.predicted) is not None]
        axes.plot(
            *zip(*meant, strict=True) if meant else ([], []), "o", mfc="white", mec=look["color"], mew=1.4, zorder=4
        )
    low, high = axes.dataLim.x0, axes.dataLim.x1
    if found and wide(low, high):
        log_axis(axes)
        label += " (log scale)"
    axes.set_xlabel(label)
    axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
    grid_lines(axes)
    return handles


def _load(group: Sequence[Inference]) -> str:
    """What a reader of latencies must know of the machine."""
    loads = [one.record.machine["load_before"] for one in group]
    cores = max(one.record.machine["cores"] for one in group)
    ends = dict.fromkeys(f"{load:.1f}" for load in (min(loads), max(loads)))
    busy = ". Above the number of cores latencies say little; bytes are exact." if max(loads) > cores else "."
    return f"Load of the machine before: {' to '.join(ends)} on {cores} cores{busy}"
