"""The names of published methods in a figure: once each, in small grey letters, where they cover least."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from relinearize.report.figures.canvas import GREY_TEXT
from relinearize.report.figures.style import SHORT_WORDS
from relinearize.report.papers.published import PublishedPoint

Box = tuple[float, float, float, float]  # left, bottom, right, top
_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, 1), (1, 1), (-1, -1))
_GAPS = (5.0, 8.5, 13.0)


def name_published(axes: Axes, published: Sequence[PublishedPoint]) -> None:
    """Write each published method's name once; everything else must have been drawn."""
    if not published:
        return
    renderer = axes.figure.canvas.get_renderer()
    groups = by_method(published)
    several = {method for method, _ in groups if sum(name == method for name, _ in groups) > 1}
    # Methods with few points have few places to stand: they choose first.
    ordered = sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))
    names = [f"{method} ({SHORT_WORDS[kind]})" if method in several else method for (method, kind), _ in ordered]
    texts = [axes.text(0, 0, name, fontsize=7, color=GREY_TEXT, zorder=2.5, style="italic") for name in names]
    extents = [text.get_window_extent(renderer) for text in texts]
    frame = axes.get_window_extent(renderer)
    boxes = place_names(
        [(extent.width, extent.height) for extent in extents],
        [_display(axes, points) for _, points in ordered],
        _display(axes, published),
        _own_marks(axes),
        (frame.x0, frame.y0, frame.x1, frame.y1),
        axes.figure.dpi / 72,
    )
    for text, box in zip(texts, boxes, strict=True):
        baseline = box[1] + 0.2 * (box[3] - box[1])
        text.set_position(axes.transData.inverted().transform((box[0], baseline)))


def by_method(published: Sequence[PublishedPoint]) -> dict[tuple[str, str], list[PublishedPoint]]:
    """(method, replacement) -> its points by growing number of ReLUs."""
    groups: dict[tuple[str, str], list[PublishedPoint]] = {}
    for point in sorted(published, key=lambda point: point.relus):
        groups.setdefault((point.method, point.replacement), []).append(point)
    return groups


def _display(axes: Axes, points: Sequence[PublishedPoint]) -> np.ndarray:
    return axes.transData.transform([(point.relus, point.accuracy) for point in points])


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
    frame: Box,
    unit: float = 1.0,
) -> list[Box]:
    """One box for each name, greedily: beside that of its anchors where it covers least.

    sizes: width and height of each name; anchors: per name the points it may stand beside, K x 2.
    light, heavy: points to keep free, N x 2, the latter (our own curves) three times as costly as the former.
    All in display units, y upwards; `unit` is the length of a typographic point in them.
    """
    taken = np.empty((0, 4))
    placed: list[Box] = []
    for (width, height), points in zip(sizes, anchors, strict=True):
        best: tuple[float, Box] | None = None
        for x, y in points:
            for far, gap in enumerate(_GAPS):
                for sideways, upwards in _SIDES:
                    box = _beside(x, y, width, height, sideways, upwards, gap * unit)
                    cost = 0.3 * far + _covered(box, light, 2 * unit) + 3 * _covered(box, heavy, 2 * unit)
                    cost += 6 * _overlapping(box, taken)
                    inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
                    cost += 0 if inside else 40
                    if best is None or cost < best[0]:
                        best = (cost, box)
        assert best is not None, "a name needs at least one anchor"
        placed.append(best[1])
        taken = np.vstack([taken, best[1]])
    return placed


def _beside(x: float, y: float, width: float, height: float, sideways: int, upwards: int, gap: float) -> Box:
    left = x + (gap if sideways > 0 else -gap - width if sideways < 0 else -width / 2)
    bottom = y + (gap if upwards > 0 else -gap - height if upwards < 0 else -height / 2)
    return left, bottom, left + width, bottom + height


def _covered(box: Box, points: np.ndarray, pad: float) -> int:
    if not len(points):
        return 0
    x, y = points[:, 0], points[:, 1]
    across = (x >= box[0] - pad) & (x <= box[2] + pad)
    return int(np.count_nonzero(across & (y >= box[1] - pad) & (y <= box[3] + pad)))


def _overlapping(box: Box, taken: np.ndarray) -> int:
    across = (taken[:, 0] < box[2]) & (box[0] < taken[:, 2])
    return int(np.count_nonzero(across & (taken[:, 1] < box[3]) & (box[1] < taken[:, 3])))
