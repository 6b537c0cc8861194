"""The interface of a source: where images come from and what identifies them.

No source imports torch when its module is imported: a finished run is answered from fingerprints alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

from relinearize.errors import UserError

if TYPE_CHECKING:
    from relinearize.data.images import ImageSet

Split = Literal["train", "test"]


class Source(ABC):
    """A labelled image set with a train and a test split, built by Hydra from conf/dataset/*.yaml.

    name: the set's short name; image_size: height and width in pixels; channels: 1 or 3; classes: their number.
    """

    name: str
    image_size: int
    channels: int
    classes: int

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 (hex) that changes with the content of the set and not with its place on disk."""

    @abstractmethod
    def check(self) -> None:
        """Look before training: raise UserError when a folder or file is missing (after downloading, if asked to)."""

    @abstractmethod
    def load(self, split: Split) -> ImageSet:
        """Read one split; raises UserError naming the file that cannot be read."""


def check_labels(labels, classes: int, where: object) -> None:
    """Refuse an empty split and labels outside 0 .. classes - 1; `where` names the file or folder in the message."""
    if len(labels) == 0:
        raise UserError(f"{where}: holds no images; a split needs at least one")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{where}: labels reach from {labels.min()} to {labels.max()}, valid are 0 to {classes - 1}")
