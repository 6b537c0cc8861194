"""latency_split.png and inference_split.png: stacked bars of what a latency or traffic consists of."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from pandas import DataFrame

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.figures.canvas import grid_lines, heading, new_figure, note_below, png, styled
from relinearize.report.figures.style import KIND_COLOURS, KIND_WORDS, PART_COLOURS
from relinearize.report.tables.cost import PARTS, preset_text
from relinearize.report.tables.inference import Inference
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import compact_count

MOST = 60  # bars; the page has all
HEIGHT = 0.25  # of a bar with its gap, in inches
LONGEST_NAME = 80  # letters beside a bar


def draw_stacked(
    axes: Axes, parts: Sequence[Mapping[str, float]], colours: Mapping[str, str], names: Sequence[str], unit: str = ""
) -> None:
    """One bar per entry of `parts` (part -> length; missing ones are 0), from the top; the sum stands at its end."""
    places, left = range(len(parts)), [0.0] * len(parts)
    for part, colour in colours.items():
        widths = [lengths.get(part, 0.0) for lengths in parts]
        axes.barh(places, widths, left=left, height=0.74, color=colour, linewidth=0)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 7.5}
    for place, end in zip(places, left, strict=True):
        axes.annotate(f"{end:.3g}{unit}", (end, place), **beside)
    axes.set_yticks(places, names, fontsize=7.5)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.margins(x=0.08)
    grid_lines(axes, "x")


def part_keys(colours: Mapping[str, str], words: Mapping[str, str]) -> list[Rectangle]:
    """For a legend."""
    return [Rectangle((0, 0), 1, 1, color=colour, label=words[part]) for part, colour in colours.items()]


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


@styled
def draw_latency_split(splits: DataFrame, preset: Preset) -> bytes:
    """One bar per row of `splits`, the same scale for all."""
    groups = dict(list(splits.head(MOST).groupby("title", sort=False)))
    heights = [len(group) + 1.6 for group in groups.values()]
    figure = new_figure(9.2, 1.5 + HEIGHT * sum(heights))
    grid = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axes, (title, group) in zip(grid.flat, groups.items(), strict=True):
        draw_stacked(axes, group[list(PARTS)].to_dict("records"), PART_COLOURS, list(group["label"]), " s")
        axes.set_title(title, loc="left", fontsize=10)
    shown = f" ({MOST} of {len(splits)} points)" if len(splits) > MOST else ""
    heading(figure, f"Parts of the predicted latency, {preset.name}{shown}")
    grid.flat[-1].set_xlabel("predicted online latency, seconds per image")
    note_below(grid.flat[-1], preset_text(preset))
    keys = part_keys(PART_COLOURS, PARTS)
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=8.5)
    return png(figure, 130)


@styled
def draw_inference_split(inferences: Sequence[Inference]) -> bytes:
    """Bytes and time per kind of operation, one pair of bars per record."""
    shown = inferences[:MOST]
    several = len({one.title for one in shown}) > 1
    names = [f"{f'{one.title}: ' * several}{one.name}, {one.setting}" for one in shown]
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
    figure = new_figure(12.4, 1.8 + HEIGHT * len(shown))
    left, right = figure.subplots(1, 2, sharey=True)
    traffic = [{kind: sent / 1e6 for kind, sent in one.kind_bytes.items()} for one in shown]
    draw_stacked(left, traffic, KIND_COLOURS, names)
    draw_stacked(right, [one.kind_seconds for one in shown], KIND_COLOURS, names)
    left.set_xlabel("steady traffic, MB per image")
    right.set_xlabel("steady latency, seconds per image (kinds: slower party)")
    heading(
        figure, "Measured, by kind of operation" + (f" ({MOST} of {len(inferences)} records)" * (shown != inferences))
    )
    keys = part_keys(KIND_COLOURS, KIND_WORDS)
    figure.legend(handles=keys, loc="outside lower left", ncols=len(keys), frameon=False, fontsize=8.5)
    return png(figure, 130)
