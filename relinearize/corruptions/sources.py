"""The interface of every source of corrupted images: published files or our generator."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from relinearize.corruptions.constants import check_corruption
from relinearize.errors import UserError


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

    def images(
        self, name: str, severity: int, positions: Sequence[int] | np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 N x H x W x C, int64 labels N) of all rows, or of those in `positions` (rows from 0, in any order).

        Raises UserError for a corruption it does not have, and for severities other than 1 to 5.
        """
        check_corruption(name, severity)
        if name not in self.names:
            raise UserError(f"corruption {name} is left out: {self.left_out.get(name, 'was not requested')}")
        rows = np.arange(len(self)) if positions is None else np.asarray(positions, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise ValueError(f"positions reach from {rows.min()} to {rows.max()}, valid are 0 to {len(self) - 1}")
        return self._read(name, severity, rows)
