"""latency_split.png: what the predicted latency of each point is made of: computation, bytes, waiting for messages."""

import io
from collections.abc import Sequence
from dataclasses import asdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.figures.axes import preset_text
from relinearize.report.figures.pareto import GREY_TEXT, STYLE
from relinearize.report.figures.stacked_bars import HEIGHT, MOST, draw_stacked, part_keys
from relinearize.report.figures.style import PART_COLOURS
from relinearize.report.tables.latency_split import PARTS, LatencySplit


def draw_split(splits: Sequence[LatencySplit], preset: Preset) -> bytes:
    """The picture as PNG bytes, one bar per split, the same scale for all."""
    groups: dict[str, list[LatencySplit]] = {}
    for split in splits[:MOST]:
        groups.setdefault(split.title, []).append(split)
    heights = [len(group) + 1.6 for group in groups.values()]
    settings = {"squeeze": False, "layout": "constrained", "sharex": True, "height_ratios": heights}
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(len(groups), 1, figsize=(9.2, 1.5 + HEIGHT * sum(heights)), **settings)
        try:
            for axes, (title, group) in zip(grid.flat, groups.items(), strict=True):
                draw_stacked(axes, [asdict(one) for one in group], PART_COLOURS, [one.label for one in group], " s")
                axes.set_title(title, loc="left", fontsize=10)
            left_out = f" ({MOST} of {len(splits)} points)" if len(splits) > MOST else ""
            title = f"What the latency is made of, {preset.name}{left_out}"
            figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
            grid.flat[-1].set_xlabel("predicted online latency, seconds per image")
            below = {"xycoords": "axes fraction", "xytext": (0, -37), "textcoords": "offset points", "va": "top"}
            grid.flat[-1].annotate(preset_text(preset), (0.5, 0), ha="center", fontsize=8, color=GREY_TEXT, **below)
            keys = part_keys(PART_COLOURS, PARTS)
            figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=8.5)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=130, facecolor="white")
        finally:
            plt.close(figure)
    return file.getvalue()
