"""What the corruptions share: the rounding of the published files, and random numbers for each image."""

from collections.abc import Iterable, Sequence

import numpy as np

from relinearize.corruptions.constants import NUMBERS

Streams = Sequence[np.random.Generator]


def to_unit(images: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """uint8 of any shape -> pixels in [0, 1]."""
    return images / dtype(255)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels, clipped to [0, 1] -> uint8. Truncated, not rounded, as the published files were."""
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def image_streams(seed: int, name: str, severity: int, positions: Iterable[int]) -> list[np.random.Generator]:
    """A generator for each position (row of the test set), a function of nothing but the four arguments.

    So an image's corruption does not depend on the other images.
    """
    return [np.random.default_rng([seed, NUMBERS[name], severity, int(position)]) for position in positions]
