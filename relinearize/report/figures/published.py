"""The names of published methods in a figure: once each, in small grey letters, where they cover least."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame

from relinearize.report.figures.canvas import GREY_TEXT
from relinearize.report.figures.style import SHORT_WORDS

_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, 1), (1, 1), (-1, -1))
_GAPS = (5.0, 8.5, 13.0)


def name_published(axes: Axes, published: DataFrame) -> None:
    """Write each published method's name once; everything else must have been drawn."""
    renderer = axes.figure.canvas.get_renderer()
    # Methods with few points have few places to stand: they choose first.
    groups = sorted(published.groupby(["method", "replacement"]), key=lambda item: (len(item[1]), item[0]))
    several = published.groupby("method")["replacement"].nunique() > 1
    names = [f"{method} ({SHORT_WORDS[kind]})" if several[method] else method for (method, kind), _ in groups]
    texts = [axes.text(0, 0, name, fontsize=7, color=GREY_TEXT, zorder=2.5, style="italic") for name in names]
    extents = [text.get_window_extent(renderer) for text in texts]
    boxes = place_names(
        [(extent.width, extent.height) for extent in extents],
        [_display(axes, points) for _, points in groups],
        _display(axes, published),
        _own_marks(axes),
        axes.get_window_extent(renderer).extents,
        axes.figure.dpi / 72,
    )
    for text, box in zip(texts, boxes, strict=True):
        baseline = box[1] + 0.2 * (box[3] - box[1])
        text.set_position(axes.transData.inverted().transform((box[0], baseline)))


def _display(axes: Axes, points: DataFrame) -> np.ndarray:
    """N x 2, by growing number of ReLUs."""
    return axes.transData.transform(points.sort_values("relus", kind="stable")[["relus", "accuracy"]])


def _own_marks(axes: Axes) -> np.ndarray:
    """Display coordinates (N x 2) along everything that a name must not cover: our curves, the all-ReLU lines."""
    marks = []
    for line in axes.get_lines():
        if line.get_zorder() < 3:
            continue
        ends = line.get_transform().transform(line.get_xydata())
        marks.append(ends)
        for start, end in pairwise(ends):
            pieces = max(2, int(np.hypot(*(end - start)) / 6))
            marks.append(start + (end - start) * np.linspace(0, 1, pieces)[:, None])
    return np.vstack(marks) if marks else np.empty((0, 2))


def place_names(
    sizes: Sequence[tuple[float, float]],
    anchors: Sequence[np.ndarray],
    light: np.ndarray,
    heavy: np.ndarray,
    frame: Sequence[float],
    unit: float = 1.0,
) -> np.ndarray:
    """One box for each name (N x 4: left, bottom, right, top), greedily: beside that of its anchors where it covers
    least.

    sizes: width and height of each name; anchors: per name the points it may stand beside, K x 2.
    light, heavy: points to keep free, N x 2, the latter (our own curves) three times as costly as the former.
    All in display units, y upwards; `unit` is the length of a typographic point in them.
    """
    far, sides = np.repeat(range(len(_GAPS)), len(_SIDES)), np.tile(_SIDES, (len(_GAPS), 1))
    gaps = unit * np.array(_GAPS)[far, None]
    placed = np.empty((0, 4))
    for size, points in zip(np.array(sizes), anchors, strict=True):
        # For each anchor, gap and side: right of or above the anchor, left of or below it, or centred on it.
        shifts = np.select([sides > 0, sides < 0], [gaps, -gaps - size], -size / 2)
        corners = (points[:, None] + shifts).reshape(-1, 2)
        boxes = np.hstack([corners, corners + size])
        inside = (frame[:2] <= corners).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1)
        cost = 0.3 * np.tile(far, len(points)) + _covered(boxes, light, 2 * unit) + 3 * _covered(boxes, heavy, 2 * unit)
        apart = (placed[:, :2] >= boxes[:, None, 2:]) | (boxes[:, None, :2] >= placed[:, 2:])  # from each name there
        cost += 6 * (~apart.any(axis=-1)).sum(axis=-1) + 40 * ~inside
        placed = np.vstack([placed, boxes[cost.argmin()]])
    return placed


def _covered(boxes: np.ndarray, points: np.ndarray, pad: float) -> np.ndarray:
    """How many of `points` lie in each box."""
    low, high = boxes[:, None, :2] - pad, boxes[:, None, 2:] + pad
    return ((low <= points) & (points <= high)).all(axis=-1).sum(axis=-1)
