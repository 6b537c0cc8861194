"""Where to write the names of published methods so that they cover as little as possible."""

from collections.abc import Sequence

import numpy as np

Box = tuple[float, float, float, float]  # left, bottom, right, top
_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, 1), (1, 1), (-1, -1))
_GAPS = (5.0, 8.5, 13.0)


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
    light, heavy: points to keep free, N x 2, the latter (our own curves) three times as dear as the former.
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
