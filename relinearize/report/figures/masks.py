"""masks.png: which positions keep their ReLU. Rows are masks, columns sites in forward order, each cell a map H x W.

Every position of a map is drawn as a square of whole pixels, so the layout is computed in pixels.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from relinearize.report.figures.canvas import GREY_TEXT, new_figure, png, styled
from relinearize.report.figures.style import SHARE_COLOURS, SHARE_TICKS
from relinearize.report.tables.masks import DrawnMask, MaskGroup, SiteMap
from relinearize.report.tables.text import share_text

MOST_ROWS = 24  # of the figure; several groups share them
LEAST_ROWS = 4  # of a group, however many there are
DPI = 110
CELL, GAP, LINE = 64, 12, 17  # pixels: a cell unless maps are larger, between cells, below a cell for its share
LEFT, RIGHT, TOP, HEAD, BUDGET_GAP = 270, 90, 64, 150, 14
LETTERS = 32  # of a row's label in a line
MAP = LinearSegmentedColormap.from_list("share", SHARE_COLOURS)


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
    return MAP(np.sqrt(share))[..., :3]


@styled
def draw_masks(groups: Sequence[MaskGroup]) -> bytes:
    """The figure as PNG bytes."""
    chosen = chosen_rows(groups)
    cells = [_cell(group) for group in groups]
    widths = [len(group.masks[0].sites) * (cell + GAP) for group, cell in zip(groups, cells, strict=True)]
    heights = [_height(rows, cell) for rows, cell in zip(chosen, cells, strict=True)]
    width, height = max(LEFT + max(widths) + RIGHT, 900), TOP + sum(heights)
    figure = new_figure(width / DPI, height / DPI, dpi=DPI, layout=None)
    paper = _Paper(figure, width, height)
    _draw_legend(paper, groups, chosen)
    top = TOP
    for group, rows, cell, used in zip(groups, chosen, cells, heights, strict=True):
        _draw_group(paper, group, rows, cell, top)
        top += used
    # All maps are one image, pasted pixel by pixel: axes of their own would cost seconds.
    figure.figimage(paper.image, 0, 0, origin="upper")
    return png(figure, DPI)


class _Paper:
    """The figure in pixels, from its left upper corner."""

    def __init__(self, figure: Figure, width: int, height: int) -> None:
        self.figure, self.width, self.height = figure, width, height
        self.image = np.ones((height, width, 3))

    def text(self, x: float, y: float, text: str, **look: object) -> None:
        look = {"va": "top", "ha": "left", "fontsize": 8} | look
        self.figure.text(x / self.width, 1 - y / self.height, text, **look)

    def paste(self, x: int, y: int, image: np.ndarray) -> None:
        self.image[y : y + image.shape[0], x : x + image.shape[1]] = image


def _cell(group: MaskGroup) -> int:
    return max(CELL, *(size for site in group.masks[0].sites for size in site.shape[1:]))


def _height(rows: Sequence[DrawnMask], cell: int) -> int:
    budgets = len({mask.asked for mask in rows})
    return HEAD + len(rows) * (cell + LINE) + (budgets - 1) * BUDGET_GAP + 24


def _draw_legend(paper: _Paper, groups: Sequence[MaskGroup], chosen: Sequence[Sequence[DrawnMask]]) -> None:
    paper.text(16, 12, "Positions that keep their ReLU", fontsize=12, fontweight="bold")
    shown, there = sum(map(len, chosen)), sum(len(group.masks) for group in groups)
    text = "Runs with the same mask share a row."
    if shown < there:
        text += f" {shown} of {there} masks: one seed each, budgets with the most methods first; the page has more."
    paper.text(16, 38, text, fontsize=8, color=GREY_TEXT)
    length, right = 300, paper.width - 40
    bar = colours(np.linspace(0, 1, length)[None, :] ** 2)
    paper.paste(right - length, 16, np.repeat(bar, 14, axis=0))
    for tick in SHARE_TICKS:
        paper.text(right - length + length * tick**0.5, 33, f"{100 * tick:g}", fontsize=7.5, ha="center")
    paper.text(right - length - 10, 16, "% of channels", ha="right")


def _draw_group(paper: _Paper, group: MaskGroup, rows: Sequence[DrawnMask], cell: int, top: int) -> None:
    paper.text(16, top + 18, group.panel.title, fontsize=10, fontweight="bold")
    paper.text(16, top + 38, textwrap.fill(group.network, 40), fontsize=8, color=GREY_TEXT)
    y = top + HEAD
    for column, site in enumerate(rows[0].sites):
        x = LEFT + column * (cell + GAP)
        # Slanted, else names are wider than their columns.
        slanted = {"rotation": 40, "rotation_mode": "anchor", "va": "bottom"}
        paper.text(x + cell / 2 - 8, y - 24, _shortened(site.name), **slanted)
        shape = "x".join(map(str, site.shape))
        paper.text(x + cell / 2, y - 6, shape, fontsize=6.5, color=GREY_TEXT, ha="center", va="bottom")
    for before, mask in zip([None, *rows], rows, strict=False):
        if before is not None and before.asked != mask.asked:
            y += BUDGET_GAP
        _draw_row(paper, mask, cell, y)
        y += cell + LINE


def _draw_row(paper: _Paper, mask: DrawnMask, cell: int, y: int) -> None:
    total = sum(np.prod(site.shape) for site in mask.sites)
    lines = textwrap.wrap(mask.label, LETTERS, max_lines=3, placeholder=" …")
    paper.text(16, y + 2, "\n".join(lines), fontsize=8.5, linespacing=1.15)
    budget = f"{mask.met:,} ReLUs, {share_text(mask.met / total)}"
    paper.text(16, y + 6 + 14.5 * len(lines), budget, fontsize=8, color=GREY_TEXT)
    for column, site in enumerate(mask.sites):
        x = LEFT + column * (cell + GAP)
        paper.paste(x, y, framed_map(site, cell))
        share = share_text(float(site.share.mean()))
        paper.text(x + cell / 2, y + cell + 2, share, fontsize=7, color=GREY_TEXT, ha="center")


def framed_map(site: SiteMap, cell: int) -> np.ndarray:
    """The map as an image of cell x cell x 3: each position a rectangle of whole pixels, the map in the middle."""
    height, width = site.share.shape
    factor = max(1, cell // max(height, width))
    drawn = colours(site.share).repeat(factor, axis=0).repeat(factor, axis=1)
    image = np.full((cell, cell, 3), 0.93)
    y, x = (cell - drawn.shape[0]) // 2, (cell - drawn.shape[1]) // 2
    image[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
    return image


def _shortened(name: str, most: int = 20) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]
