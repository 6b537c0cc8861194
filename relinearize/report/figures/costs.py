"""inference.png, inference_split.png, latency_split.png: measured private inferences and the parts of latencies."""

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from pandas import DataFrame

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.figures import canvas
from relinearize.report.figures.style import CURVE_COLOURS, KINDS, LINE_STYLES, PARTS
from relinearize.report.tables.cost import preset_text
from relinearize.report.tables.inference import curves
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import compact_count

LEGEND_LINE = 0.18  # inches below the axes for each curve
MOST = 60  # bars; the page has all
HEIGHT = 0.25  # of a bar with its gap, in inches
NARROW = 0.05  # an axis whose numbers differ by less than this share shows at least as much on both sides
LONGEST_NAME = 80  # letters beside a bar
TRAFFIC, LATENCY = "steady traffic, MB per image", "steady latency, seconds per image"


@canvas.styled
def draw_inference(inferences: DataFrame) -> bytes:
    """Accuracy against measured bytes and latency as PNG bytes, a row per dataset and setting.

    Points are means over seeds; the number of live sites stands at each where it differs. One accuracy at least is
    known.
    """
    rows = dict(list(inferences.dropna(subset="test_accuracy").groupby(["title", "setting"], sort=False)))
    found = curves(inferences)
    kinds = list(dict.fromkeys(kind for _, kind in found))
    looks = dict(zip(kinds, itertools.cycle(itertools.product(LINE_STYLES, CURVE_COLOURS)), strict=False))
    figure = canvas.new_figure(12.4, (4.6 + LEGEND_LINE * (len(kinds) + 1)) * len(rows))
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (left, right), ((title, setting), group) in zip(grid, rows.items(), strict=True):
        own = {kind: points[points["title"] == title] for (given, kind), points in found.items() if given == setting}
        own = {kind: points for kind, points in own.items() if len(points)}
        handles = _draw_curves(left, own, "mb", TRAFFIC, looks)
        _draw_curves(right, own, "s", LATENCY, looks)
        first = group.iloc[0]
        left.set_title(f"{title}: {first.protocol}, {first.link}", loc="left", fontweight="bold", fontsize=12)
        left.set_ylabel("test accuracy in plaintext (%)")
        hollow = Line2D([], [], color=canvas.GREY_TEXT, linestyle="none", marker="o", markerfacecolor="white")
        hollow.set_label("hollow: predicted from counts, without the engine")
        canvas.legend_below(left, [*handles, hollow], -0.14, fontsize=8.2)
        canvas.note_below(right, textwrap.fill(_load(group), 85), across=0, down=-40, ha="left")
    return canvas.png(figure, 130)


def _draw_curves(
    axes: Axes, found: dict[str, DataFrame], unit: str, label: str, looks: dict[str, tuple[Any, str]]
) -> list[Line2D]:
    """`unit`: "mb" or "s", the end of the columns' names; `looks`: line and colour of each kind."""
    handles, several = [], pd.concat(found.values())["live_sites"].nunique() > 1
    for kind, points in found.items():
        line, colour = looks[kind]
        look = {"color": colour, "ls": line, "lw": 1.6, "marker": "o", "ms": 6, "label": kind or "measured"}
        handles += axes.plot(points[f"steady_{unit}"], points["test_accuracy"], zorder=3, **look)
        predicted = points.dropna(subset=f"predicted_{unit}")
        hollow = {"mfc": "white", "mec": colour, "mew": 1.2, "ms": 5, "zorder": 2}
        axes.plot(predicted[f"predicted_{unit}"], predicted["test_accuracy"], "o", **hollow)
        if several:
            for point in points.itertuples():
                beside = {"xytext": (5, 5), "textcoords": "offset points", "fontsize": 8, "color": colour}
                axes.annotate(
                    f"{point.live_sites:.3g}", (getattr(point, f"steady_{unit}"), point.test_accuracy), **beside
                )
    if canvas.wide(axes.dataLim.x0, axes.dataLim.x1):
        canvas.log_axis(axes)
        label += " (log scale)"
    elif axes.dataLim.x1 - axes.dataLim.x0 < NARROW * axes.dataLim.x1:  # all alike: small differences stay small
        axes.set_xlim((1 - NARROW) * axes.dataLim.x0, (1 + NARROW) * axes.dataLim.x1)
    axes.set_xlabel(label)
    axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
    canvas.grid_lines(axes)
    return handles


def _load(group: DataFrame) -> str:
    """What a reader of latencies must know of the machine."""
    loads, cores = group["load_before"], group["cores"].max()
    ends = dict.fromkeys(f"{load:.1f}" for load in (loads.min(), loads.max()))
    busy = ". Above the number of cores latencies say little; bytes are exact." if loads.max() > cores else "."
    return f"Load of the machine before: {' to '.join(ends)} on {cores} cores{busy}"


@canvas.styled
def draw_inference_split(inferences: DataFrame) -> bytes:
    """Bytes and time per kind of operation, one pair of bars per record."""
    shown = inferences.head(MOST)
    names = shown["run"] + ", " + shown["setting"]
    if shown["title"].nunique() > 1:
        names = shown["title"] + ": " + names
    figure = canvas.new_figure(12.4, 1.8 + HEIGHT * len(shown))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, unit in ((left, "mb"), (right, "s")):
        draw_stacked(axes, shown.reindex(columns=[f"{kind}_{unit}" for kind in KINDS]), KINDS, names)
    left.set_xlabel(TRAFFIC)
    right.set_xlabel(f"{LATENCY} (kinds: slower party)")
    some = f" ({MOST} of {len(inferences)} records)" if len(inferences) > MOST else ""
    canvas.heading(figure, f"Measured, by kind of operation{some}")
    _part_legend(figure, KINDS, "left")
    return canvas.png(figure, 130)


def latency_splits(panels: Sequence[Panel], preset: Preset) -> DataFrame:
    """Seconds of each point whose cost is known, in PARTS; `title`: the dataset, `label`: the method and its ReLUs.

    Empty where the preset is computation alone, which has no parts.
    """
    points = pd.concat([panel.points for panel in panels])
    points = points.sort_values(["curve", "relus"], ascending=[True, False], kind="stable")
    points = points[points[f"{preset.name}_s"].notna() & (preset.network is not None)]
    splits = points.rename(columns={f"{preset.name}_{part}": part for part in PARTS})[["title", *PARTS]]
    splits["label"] = points["label"] + ", " + points["relus"].map(compact_count)
    return splits


@canvas.styled
def draw_latency_split(splits: DataFrame, preset: Preset) -> bytes:
    """One bar per row of `splits`, the same scale for all."""
    groups = dict(list(splits.head(MOST).groupby("title", sort=False)))
    heights = [len(group) + 1.6 for group in groups.values()]
    figure = canvas.new_figure(9.2, 1.5 + HEIGHT * sum(heights))
    grid = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axes, (title, group) in zip(grid.flat, groups.items(), strict=True):
        draw_stacked(axes, group[list(PARTS)], PARTS, list(group["label"]), " s")
        axes.set_title(title, loc="left", fontsize=10)
    shown = f" ({MOST} of {len(splits)} points)" if len(splits) > MOST else ""
    canvas.heading(figure, f"Parts of the predicted latency, {preset.name}{shown}")
    grid.flat[-1].set_xlabel("predicted online latency, seconds per image")
    canvas.note_below(grid.flat[-1], preset_text(preset))
    _part_legend(figure, PARTS, "center")
    return canvas.png(figure, 130)


def draw_stacked(axes: Axes, parts: DataFrame, looks: dict[str, Any], names: list[str], unit: str = "") -> None:
    """One bar per row of `parts` (a column for each of `looks`; missing are 0), from the top; its sum at its end."""
    places, ends = range(len(parts)), 0.0
    for (_, lengths), look in zip(parts.astype(float).fillna(0.0).items(), looks.values(), strict=True):
        axes.barh(places, lengths, left=ends, height=0.74, color=look["colour"], linewidth=0)
        ends = ends + lengths
    for place, end in zip(places, ends, strict=True):
        beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 7.5}
        axes.annotate(f"{end:.3g}{unit}", (end, place), **beside)
    axes.set_yticks(places, [canvas.cut(name, LONGEST_NAME) for name in names], fontsize=7.5)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.margins(x=0.08)
    canvas.grid_lines(axes, "x")


def _part_legend(figure: Figure, looks: dict[str, Any], side: str) -> None:
    keys = [Rectangle((0, 0), 1, 1, color=look["colour"], label=look["words"]) for look in looks.values()]
    figure.legend(handles=keys, loc=f"outside lower {side}", ncols=len(keys), frameon=False, fontsize=8.5)
