"""inference.png and inference_split.png: what was measured in private inference, and its split by kind of operation."""

import io
import textwrap
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from relinearize.private_inference.cost.prediction import PhaseCost
from relinearize.report.figures.axes import WIDE_RANGE
from relinearize.report.figures.pareto import GREY_TEXT, STYLE, legend_columns
from relinearize.report.figures.stacked_bars import HEIGHT, MOST, draw_stacked, part_keys
from relinearize.report.figures.style import CURVE_COLOURS, KIND_COLOURS, KIND_WORDS, LINE_STYLES, log_ticks
from relinearize.report.tables.inference import Inference, curves, megabytes

LONGEST_NAME = 80  # letters beside a bar
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


def draw_inference(inferences: Sequence[Inference]) -> bytes:
    """Accuracy against measured bytes and latency as PNG bytes, a row per dataset. One accuracy at least is known."""
    rows: dict[str, list[Inference]] = {}
    for one in inferences:
        if one.accuracy is not None:
            rows.setdefault(one.title, []).append(one)
    with plt.rc_context(STYLE):
        longest = max(len(curves(group)) for group in rows.values())
        size = (12.4, (4.6 + LEGEND_LINE * (longest + 1)) * len(rows))
        figure, grid = plt.subplots(len(rows), 2, figsize=size, squeeze=False, layout="constrained")
        try:
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
                below = {"xycoords": "axes fraction", "xytext": (0, -40), "textcoords": "offset points", "va": "top"}
                right.annotate(textwrap.fill(_load(group), 85), (0, 0), fontsize=8, color=GREY_TEXT, **below)
            return _saved(figure)
        finally:
            plt.close(figure)


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
    if found and low > 0 and high / low >= WIDE_RANGE:
        axes.set_xscale("log")
        ticks = log_ticks(*axes.get_xlim())
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        label += " (log scale)"
    axes.set_xlabel(label)
    axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
    axes.grid(color="#e8eaee", linewidth=0.8)
    return handles


def _load(group: Sequence[Inference]) -> str:
    """What a reader of latencies must know of the machine."""
    loads = [one.record.machine["load_before"] for one in group]
    cores = max(one.record.machine["cores"] for one in group)
    ends = dict.fromkeys(f"{load:.1f}" for load in (min(loads), max(loads)))
    busy = ". Above the number of cores latencies say little; bytes are exact." if max(loads) > cores else "."
    return f"Load of the machine before: {' to '.join(ends)} on {cores} cores{busy}"


def draw_inference_split(inferences: Sequence[Inference]) -> bytes:
    """Stacked bars of bytes and of time per kind of operation as PNG bytes, one pair per record."""
    shown = inferences[:MOST]
    several = len({one.title for one in shown}) > 1
    names = [f"{f'{one.title}: ' * several}{one.name}, {one.setting}" for one in shown]
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
    size = (12.4, 1.8 + HEIGHT * len(shown))
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
        try:
            traffic = [{kind: sent / 1e6 for kind, sent in one.kind_bytes.items()} for one in shown]
            draw_stacked(left, traffic, KIND_COLOURS, names)
            draw_stacked(right, [one.kind_seconds for one in shown], KIND_COLOURS, names)
            left.set_xlabel("steady traffic, MB per image")
            right.set_xlabel("steady latency, seconds per image (kinds: slower party)")
            left_out = f" ({MOST} of {len(inferences)} records)" if len(inferences) > MOST else ""
            figure.suptitle(
                f"Measured, by kind of operation{left_out}", x=0.01, ha="left", fontsize=12, fontweight="bold"
            )
            keys = part_keys(KIND_COLOURS, KIND_WORDS)
            figure.legend(handles=keys, loc="outside lower left", ncols=len(keys), frameon=False, fontsize=8.5)
            return _saved(figure)
        finally:
            plt.close(figure)


def _saved(figure: plt.Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, facecolor="white")
    return file.getvalue()
