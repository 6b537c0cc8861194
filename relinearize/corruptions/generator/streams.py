"""One stream of random numbers per image, so that its corruption does not depend on the other images."""

from collections.abc import Iterable, Sequence

import numpy as np

from relinearize.corruptions.constants import NUMBERS

Streams = Sequence[np.random.Generator]


def image_streams(seed: int, name: str, severity: int, positions: Iterable[int]) -> list[np.random.Generator]:
    """A generator for each position (row of the test set), a function of nothing but the four arguments."""
    return [np.random.default_rng([seed, NUMBERS[name], severity, int(position)]) for position in positions]
