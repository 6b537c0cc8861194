"""How every figure begins and ends: fonts and colours of the frame, PNG bytes at the end, no global state of pyplot."""

import io
import math
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from relinearize.report.figures.style import SHARE_COLOURS

GREY, GREY_TEXT, INK = "#a3a9b3", "#6d7480", "#22262c"
# Shares of ReLUs kept as colours: small ones stay visible.
MAP, NORM = LinearSegmentedColormap.from_list("share", SHARE_COLOURS), PowerNorm(0.5, 0, 1)
PANEL_INCHES = 6.4  # usable width of a panel
LONGEST = 92  # letters of a line of its legend
WIDE_RANGE = 4.0  # from this quotient of its ends on, an axis of costs is logarithmic
# Decorates what draws a figure.
styled = rc_context(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.parse_math": False,  # a $ in a title is a $
        "axes.edgecolor": "#9aa0a9",
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": "#4a4f57",
        "ytick.color": "#4a4f57",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
)


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """A figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), **{"layout": "constrained", **options})
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, facecolor="white")
    return file.getvalue()


def heading(figure: Figure, title: str) -> None:
    """The title of a figure, at its left."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")


def panel_title(axes: Axes, title: str, networks: Sequence[str]) -> None:
    """The dataset above its axes and, where there is but one, the network below it."""
    axes.set_title(title, loc="left", fontweight="bold", fontsize=12, pad=20 if len(networks) == 1 else 10)
    if len(networks) == 1:
        axes.text(0, 1.015, networks[0], transform=axes.transAxes, fontsize=9, color=GREY_TEXT, va="bottom")


def note_below(axes: Axes, text: str, across: float = 0.5, down: float = -37, **options: Any) -> None:
    """Small grey letters below the label of the horizontal axis. across: share of its length; down: in points."""
    below = {"xycoords": "axes fraction", "xytext": (0, down), "textcoords": "offset points", "va": "top"}
    axes.annotate(text, (across, 0), **{"fontsize": 8, "color": GREY_TEXT, "ha": "center", **below, **options})


def cut(text: str, most: int) -> str:
    """In the middle: names begin with the method and end with the budget."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[half + 1 - most :]}"


def legend_below(
    axes: Axes, handles: Sequence[Line2D], down: float, most: int = 3, longer: int = 0, **look: Any
) -> int:
    """A legend below the axes, where it covers no points, in as many columns, up to `most`, as fit below a panel (about
    0.063 inches a letter; lines as wide as `longer` letters more than usual). Returns its number of lines."""
    for handle in handles:
        handle.set_label(cut(str(handle.get_label()), LONGEST - longer))
    lengths = [len(str(handle.get_label())) + longer for handle in handles]
    for columns in range(most, 0, -1):
        rows = math.ceil(len(lengths) / columns)
        longest = [max(lengths[start : start + rows]) for start in range(0, len(lengths), rows)]
        if sum(0.063 * length + 0.55 for length in longest) <= PANEL_INCHES:
            break
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.01, down), ncols=columns, frameon=False, **look)
    return rows


def grid_lines(axes: Axes, axis: str = "both") -> None:
    axes.grid(axis=axis, color="#e8eaee", linewidth=0.8)


def log_axis(axes: Axes, text_of: Any = "{:g}".format) -> None:
    """A logarithmic horizontal axis with few round ticks; what lies at 0 stands left of it, on a tick of its own."""
    least, zero = min(axes.dataLim.minposx, axes.dataLim.x1 or 1.0), axes.dataLim.x0 <= 0
    axes.set_xscale(**({"value": "symlog", "linthresh": least, "linscale": 0.3} if zero else {"value": "log"}))
    low, high = axes.get_xlim()
    ticks = [0, *log_ticks(least, high)] if zero else log_ticks(low, high)
    axes.set_xticks(ticks, [text_of(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def wide(low: float, high: float) -> bool:
    """Whether an axis from `low` to `high` reads better with a logarithmic scale."""
    return low > 0 and high / low >= WIDE_RANGE


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """Round numbers between `low` and `high` for a logarithmic axis: 1-2-5 steps, fewer where these are too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 2:  # a narrow range
        ticks = [tick for tick in MaxNLocator(4).tick_values(low, high).tolist() if low <= tick <= high]
    return ticks
