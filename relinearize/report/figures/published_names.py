"""The names of published methods in a picture: once each, in small grey letters, where they cover least."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from relinearize.report.figures.names import place_names
from relinearize.report.figures.style import SHORT_WORDS
from relinearize.report.papers.published import PublishedPoint


def name_published(axes: Axes, published: Sequence[PublishedPoint], colour: str) -> None:
    """Write each published method's name once, in small grey letters."""
    if not published:
        return
    renderer = axes.figure.canvas.get_renderer()
    groups = by_method(published)
    several = {method for method, _ in groups if sum(name == method for name, _ in groups) > 1}
    # Methods with few points have few places to stand: they choose first.
    ordered = sorted(groups.items(), key=lambda item: (len(item[1]), item[0]))
    names = [f"{method} ({SHORT_WORDS[kind]})" if method in several else method for (method, kind), _ in ordered]
    texts = [axes.text(0, 0, name, fontsize=7, color=colour, zorder=2.5, style="italic") for name in names]
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


def _display(axes: Axes, points: Sequence[PublishedPoint]) -> np.ndarray:
    return axes.transData.transform([(point.relus, point.accuracy) for point in points])


def by_method(published: Sequence[PublishedPoint]) -> dict[tuple[str, str], list[PublishedPoint]]:
    """(method, replacement) -> its points by growing number of ReLUs."""
    groups: dict[tuple[str, str], list[PublishedPoint]] = {}
    for point in sorted(published, key=lambda point: point.relus):
        groups.setdefault((point.method, point.replacement), []).append(point)
    return groups


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
