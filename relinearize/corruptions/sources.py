"""The interface of every source of corrupted images: published files or our generator."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from relinearize.corruptions.constants import CORRUPTIONS, check_corruption
from relinearize.errors import UserError

Positions = Sequence[int] | np.ndarray


class CorruptedImages(ABC):
    """A test set under corruptions of five severities.

    source: "files" or "generated", shown wherever a number made from it is; names: the corruptions it has, in the order
    of the papers; left_out: requested ones that it lacks, with the reason.
    """

    source: Literal["files", "generated"]
    names: tuple[str, ...]
    left_out: dict[str, str]

    @abstractmethod
    def __len__(self) -> int:
        """Images of each corruption at each severity."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What identifies the images, as plain data for a record."""

    @abstractmethod
    def _read(self, name: str, severity: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of these rows."""

    @property
    def coverage(self) -> str:
        """For tables: "15 of 15", "14 of 15 (no frost)"."""
        return coverage(self.names)

    def images(self, name: str, severity: int, positions: Positions | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 N x H x W x C, int64 labels N) of all rows, or of those in `positions` (rows from 0, in any order).

        Raises UserError for a corruption it does not have, and for severities other than 1 to 5.
        """
        check_corruption(name, severity)
        if name not in self.names:
            reason = self.left_out.get(name, "was not requested")
            raise UserError(f"corruption {name} is left out: {reason}")
        return self._read(name, severity, self._rows(positions))

    def chunks(
        self, name: str, severity: int, size: int = 500, positions: Positions | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same in pieces of `size` images, the last one shorter; only one piece is in memory at a time."""
        rows = self._rows(positions)
        for start in range(0, len(rows), size):
            yield self.images(name, severity, rows[start : start + size])

    def _rows(self, positions: Positions | None) -> np.ndarray:
        rows = np.arange(len(self)) if positions is None else np.asarray(positions, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise ValueError(f"positions reach from {rows.min()} to {rows.max()}, valid are 0 to {len(self) - 1}")
        return rows


def coverage(names: Sequence[str]) -> str:
    """How many of the standard 15 there are, and which are missing: "14 of 15 (no frost)"."""
    missing = [name for name in CORRUPTIONS if name not in names]
    there = f"{len(CORRUPTIONS) - len(missing)} of {len(CORRUPTIONS)}"
    return f"{there} (no {', '.join(missing)})" if missing else there
