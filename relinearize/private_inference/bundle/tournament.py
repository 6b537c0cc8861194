"""A max-pool as the comparisons that two parties make: what is compared with what, and how often.

The maximum over a window is taken along the width first and then along the height, so that windows that lie above
each other share the maxima of their rows. Along one axis overlapping windows share the parts that they have in common.
Padded places take no part: fixed point has no -inf. Public, as shapes are. NumPy only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Ids = Sequence[int]


@dataclass(frozen=True)
class Engine(Generic[T]):
    """take(x, axis, ids) and concatenate(x, y, axis) are local; maximum(x, y) compares, all of it at once."""

    take: Callable[[T, int, Ids], T]
    maximum: Callable[[T, T], T]
    concatenate: Callable[[T, T, int], T]


@dataclass(frozen=True)
class Tournament:
    """Maxima over windows of one axis. `leaves`: the places that any window reads; what is read gets an id, in this
    order, and so does the result of each comparison. `rounds`: (left ids, right ids) that are compared at once, one
    round after the other. `winners`: the ids of the results, window by window."""

    leaves: Ids
    rounds: tuple[tuple[Ids, Ids], ...]
    winners: Ids

    @classmethod
    def of(cls, length: int, kernel: int, stride: int, padding: int) -> "Tournament":
        """Of an axis of that `length`, padded on both sides. ValueError where a window has no place but padded ones."""
        starts = range(-padding, length + padding - kernel + 1, stride)
        windows = [(max(0, start), min(length, start + kernel)) for start in starts]
        if any(first >= last for first, last in windows):
            raise ValueError(f"padding {padding}: a window of {kernel} on {length} places reads nothing else")
        leaves = sorted({place for window in windows for place in range(*window)})
        ids = {(place, place + 1): number for number, place in enumerate(leaves)}
        found = dict.fromkeys(part for window in windows for part in _parts(*window))
        rounds = []
        for level in range(1, max((_depth(*part) for part in found), default=0) + 1):
            compared = [part for part in found if _depth(*part) == level]
            halves = [_halves(*part) for part in compared]
            rounds.append(tuple(tuple(ids[half[side]] for half in halves) for side in range(2)))
            ids |= {part: len(ids) + number for number, part in enumerate(compared)}
        return cls(tuple(leaves), tuple(rounds), tuple(ids[window] for window in windows))

    @property
    def comparisons(self) -> int:
        return sum(len(left) for left, _ in self.rounds)

    def play(self, x: T, axis: int, engine: Engine[T]) -> T:
        """The maxima along `axis` of `x`, which holds the leaves alone."""
        known = x
        for left, right in self.rounds:
            larger = engine.maximum(engine.take(known, axis, left), engine.take(known, axis, right))
            known = engine.concatenate(known, larger, axis)
        return engine.take(known, axis, self.winners)


@dataclass(frozen=True)
class MaxPool:
    """A max-pool of one image. `comparisons`: of all channels; `rounds`: batches of them, one after the other."""

    channels: int
    rows: Tournament
    columns: Tournament

    @classmethod
    def of(cls, shape: Sequence[int], window: Mapping[str, Any]) -> "MaxPool":
        """shape: C x H x W before the pool; window: kernel, stride and padding, pairs."""
        sides = zip(shape[1:], *(window[name] for name in ("kernel", "stride", "padding")), strict=True)
        return cls(shape[0], *(Tournament.of(*side) for side in sides))

    @property
    def comparisons(self) -> int:
        of_rows = len(self.rows.leaves) * self.columns.comparisons
        return self.channels * (of_rows + len(self.columns.winners) * self.rows.comparisons)

    @property
    def rounds(self) -> int:
        return len(self.columns.rounds) + len(self.rows.rounds)

    def play(self, x: T, axes: tuple[int, int], engine: Engine[T]) -> T:
        """The pool of `x`, whose height and width are `axes`."""
        for axis, side in zip(axes, (self.rows, self.columns), strict=True):
            x = engine.take(x, axis, side.leaves)
        return self.rows.play(self.columns.play(x, axes[1], engine), axes[0], engine)


def progressions(ids: Ids) -> list[slice]:
    """`ids` as slices one after the other: engines cut faster than they gather."""
    found, begin = [], 0
    while begin < len(ids):
        step = ids[begin + 1] - ids[begin] if begin + 1 < len(ids) else 1
        end = begin + 1
        while step > 0 and end < len(ids) and ids[end] - ids[end - 1] == step:
            end += 1
        found.append(slice(ids[begin], ids[end - 1] + 1, max(step, 1)))
        begin = end
    return found


def _halves(first: int, last: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """What an interval is the maximum of: its first places, the largest power of two below its length, and the rest."""
    middle = first + (1 << (last - first - 1).bit_length() - 1)
    return (first, middle), (middle, last)


def _parts(first: int, last: int) -> list[tuple[int, int]]:
    """The intervals of more than one place that are compared for an interval."""
    if last - first < 2:
        return []
    left, right = _halves(first, last)
    return [*_parts(*left), *_parts(*right), (first, last)]


def _depth(first: int, last: int) -> int:
    """Rounds until the maximum of an interval is known."""
    return (last - first - 1).bit_length()
