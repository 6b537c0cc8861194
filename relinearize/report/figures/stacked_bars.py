"""Stacked horizontal bars, the same way in every picture."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

MOST = 60  # bars; beyond them a picture is none to read, and the page has them all
HEIGHT = 0.25  # of a bar with its gap, in inches


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
    axes.grid(axis="x", color="#e8eaee", linewidth=0.8)


def part_keys(colours: Mapping[str, str], words: Mapping[str, str]) -> list[Rectangle]:
    """For a legend."""
    return [Rectangle((0, 0), 1, 1, color=colour, label=words[part]) for part, colour in colours.items()]
