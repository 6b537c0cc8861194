"""What is compared in a max-pool: the right maxima, and as few comparisons as are promised."""

import itertools

import numpy as np
import pytest

from relinearize.private_inference.bundle.operations import OPERATIONS
from relinearize.private_inference.bundle.tournament import Engine, MaxPool, Tournament, progressions


def pairs(kernel, stride, padding):
    return {"kernel": kernel, "stride": stride, "padding": padding}


WINDOWS = [
    pairs(kernel, stride, padding)
    for kernel in itertools.product((1, 2, 3, 5), (2, 3))
    for stride in ((1, 2), (2, 2), (3, 1))
    for padding in itertools.product((0, 1, 2), (0, 1))
    if all(2 * side <= length for side, length in zip(padding, kernel, strict=True))
]


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (9, 6)])
def test_the_maxima_are_right_and_every_comparison_is_counted(size):
    compared = []

    def maximum(x, y):
        compared.append(x.size)
        return np.maximum(x, y)

    def take(x, axis, ids):
        return np.concatenate([x[(slice(None),) * axis + (one,)] for one in progressions(ids)], axis)

    engine = Engine(take, maximum, lambda x, y, axis: np.concatenate((x, y), axis))
    x = np.random.default_rng(0).normal(-5, 1, (1, 3, *size))  # below 0, which padding must not be
    for window in WINDOWS:
        compared.clear()
        pool, expected = MaxPool.of(x.shape[1:], window), OPERATIONS["max_pool"].compute(x, **window)
        assert np.array_equal(pool.play(x, (2, 3), engine), expected), window
        assert (sum(compared), len(compared)) == (pool.comparisons, pool.rounds), window
        assert pool.comparisons <= expected.size * (np.prod(window["kernel"]) - 1), "never more than window by window"


@pytest.mark.parametrize(
    ("shape", "window", "comparisons", "rounds"),
    [
        ((64, 32, 32), pairs((2, 2), (2, 2), (0, 0)), 3 * 64 * 16 * 16, 2),
        ((1, 5, 5), pairs((2, 2), (2, 2), (0, 0)), 3 * 2 * 2, 2),  # the last row and column take no part
        # ResNet's stem: of each of the 112 rows 56 maxima of three, the first of two; then the same along the columns.
        ((1, 112, 112), pairs((3, 3), (2, 2), (1, 1)), 112 * (56 * 2 - 1) + 56 * (56 * 2 - 1), 4),
        ((1, 4, 4), pairs((3, 3), (1, 1), (1, 1)), 4 * (3 + 2) * 2, 4),  # pairs are shared: 3, and 2 with a third
        ((1, 4, 4), pairs((1, 1), (2, 2), (0, 0)), 0, 0),
    ],
)
def test_counts_by_hand(shape, window, comparisons, rounds):
    pool = MaxPool.of(shape, window)
    assert (pool.comparisons, pool.rounds) == (comparisons, rounds)


def test_a_window_of_padding_alone_is_refused():
    with pytest.raises(ValueError, match="a window of 2 on 3 places reads nothing else"):
        Tournament.of(3, 2, 1, 2)


def test_ids_as_slices():
    for ids in ([0, 1, 3, 5, 7, 2, 2, 9], [4], [], [3, 2, 1]):
        assert np.array_equal(np.concatenate([np.arange(12)[one] for one in progressions(ids)] or [[]]), ids)
