"""masks.png: which positions keep their ReLU. Rows are masks, columns sites in forward order, each cell a map H x W.

Every position of a map is drawn as a square of whole pixels, so the layout is computed in pixels.
"""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from relinearize.report.figures.canvas import GREY_TEXT, MAP, NORM, new_figure, png, styled
from relinearize.report.figures.style import SHARE_TICKS
from relinearize.report.tables.masks import DrawnMask, MaskGroup, SiteMap
from relinearize.report.tables.text import share_text

MOST_ROWS = 24  # of the figure; several groups share them
LEAST_ROWS = 4  # of a group, however many there are
DPI = 110
CELL, GAP, LINE = 64, 12, 17  # pixels: a cell unless maps are larger, between cells, below a cell for its share
LEFT, RIGHT, TOP, HEAD, BUDGET_GAP = 270, 90, 64, 150, 14
LETTERS = 32  # of a row's label in a line


def chosen_rows(groups: Sequence[MaskGroup]) -> list[list[DrawnMask]]:
    """The masks to draw of each group: first seeds only, whole budgets in order of rank, sorted as the group is.

    Small groups leave what they do not need to the others.
    """
    chosen: dict[int, list[DrawnMask]] = {}
    left = MOST_ROWS
    for position in sorted(range(len(groups)), key=lambda index: len(groups[index].masks)):
        group = groups[position]
        most = max(LEAST_ROWS, left // (len(groups) - len(chosen)))
        budgets: dict[int, list[DrawnMask]] = {}
        for mask in group.ranked():
            if mask.turn == 0:
                budgets.setdefault(mask.asked, []).append(mask)
        drawn: list[DrawnMask] = []
        for masks in budgets.values():
            if len(drawn) + len(masks) <= most:
                drawn += masks
        # A budget of more methods than there are rows is cut.
        drawn = drawn or next(iter(budgets.values()))[:most]
        chosen[position] = [mask for mask in group.masks if any(mask is one for one in drawn)]
        left -= len(drawn)
    return [chosen[position] for position in range(len(groups))]


def colours(share: np.ndarray) -> np.ndarray:
    """Shares of 0 to 1 as RGB of 0 to 1."""
    return MAP(NORM(share))[..., :3]


@styled
def draw_masks(groups: Sequence[MaskGroup]) -> bytes:
    """The figure as PNG bytes."""
    chosen = chosen_rows(groups)
    cells = [max(CELL, *(size for site in group.masks[0].sites for size in site.shape[1:])) for group in groups]
    widths = [len(group.masks[0].sites) * (cell + GAP) for group, cell in zip(groups, cells, strict=True)]
    tops = [TOP]
    for rows, cell in zip(chosen, cells, strict=True):
        budgets = len({mask.asked for mask in rows})
        tops.append(tops[-1] + HEAD + len(rows) * (cell + LINE) + (budgets - 1) * BUDGET_GAP + 24)
    width, height = max(LEFT + max(widths) + RIGHT, 900), tops[-1]
    figure = new_figure(width / DPI, height / DPI, dpi=DPI, layout=None)
    # In pixels, from the left upper corner.
    paper = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), frame_on=False, xticks=[], yticks=[])
    text, image = partial(paper.text, va="top", fontsize=8), np.ones((height, width, 3))
    _draw_legend(text, image, groups, chosen)
    for group, rows, cell, top in zip(groups, chosen, cells, tops, strict=False):
        _draw_group(text, image, group, rows, cell, top)
    # All maps are one image, pasted pixel by pixel: axes of their own would cost seconds.
    figure.figimage(image, origin="upper", zorder=-1)
    return png(figure, DPI)


def _draw_legend(
    text: Callable, image: np.ndarray, groups: Sequence[MaskGroup], chosen: Sequence[Sequence[DrawnMask]]
) -> None:
    text(16, 12, "Positions that keep their ReLU", fontsize=12, fontweight="bold")
    shown, there = sum(map(len, chosen)), sum(len(group.masks) for group in groups)
    note = "Runs with the same mask share a row."
    if shown < there:
        note += f" {shown} of {there} masks: one seed each, budgets with the most methods first; the page has more."
    text(16, 38, note, color=GREY_TEXT)
    length, right = 300, image.shape[1] - 40
    image[16:30, right - length : right] = colours(np.linspace(0, 1, length) ** 2)
    for tick in SHARE_TICKS:
        text(right - length + length * tick**0.5, 33, f"{100 * tick:g}", fontsize=7.5, ha="center")
    text(right - length - 10, 16, "% of channels", ha="right")


def _draw_group(
    text: Callable, image: np.ndarray, group: MaskGroup, rows: Sequence[DrawnMask], cell: int, top: int
) -> None:
    text(16, top + 18, group.panel.title, fontsize=10, fontweight="bold")
    text(16, top + 38, textwrap.fill(group.network, 40), color=GREY_TEXT)
    places = [(LEFT + column * (cell + GAP), site) for column, site in enumerate(rows[0].sites)]
    y = top + HEAD
    for x, site in places:
        # Slanted, else names are wider than their columns.
        slanted = {"rotation": 40, "rotation_mode": "anchor", "va": "bottom"}
        text(x + cell / 2 - 8, y - 24, site.name if len(site.name) <= 20 else f"…{site.name[-19:]}", **slanted)
        shape = "x".join(map(str, site.shape))
        text(x + cell / 2, y - 6, shape, fontsize=6.5, color=GREY_TEXT, ha="center", va="bottom")
    asked = rows[0].asked
    for mask in rows:
        y += BUDGET_GAP * (mask.asked != asked)
        asked = mask.asked
        lines = textwrap.wrap(mask.label, LETTERS, max_lines=3, placeholder=" …")
        text(16, y + 2, "\n".join(lines), fontsize=8.5, linespacing=1.15)
        total = sum(np.prod(site.shape) for site in mask.sites)
        budget = f"{mask.met:,} ReLUs, {share_text(mask.met / total)}"
        text(16, y + 6 + 14.5 * len(lines), budget, color=GREY_TEXT)
        for (x, _), site in zip(places, mask.sites, strict=True):
            image[y : y + cell, x : x + cell] = framed_map(site, cell)
            share = share_text(float(site.share.mean()))
            text(x + cell / 2, y + cell + 2, share, fontsize=7, color=GREY_TEXT, ha="center")
        y += cell + LINE


def framed_map(site: SiteMap, cell: int) -> np.ndarray:
    """The map as an image of cell x cell x 3: each position a rectangle of whole pixels, the map in the middle."""
    height, width = site.share.shape
    factor = max(1, cell // max(height, width))
    drawn = colours(site.share).repeat(factor, axis=0).repeat(factor, axis=1)
    image = np.full((cell, cell, 3), 0.93)
    y, x = (cell - drawn.shape[0]) // 2, (cell - drawn.shape[1]) // 2
    image[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
    return image
