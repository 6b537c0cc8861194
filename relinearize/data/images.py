"""What a source hands over: one split of an image set, as bytes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """One split of an image set.

    images: uint8, N x H x W x C (channels last, so that a crop of a row is one run of bytes). It may be memory-mapped
        from a cache file; reading rows of it then reads the disk.
    labels: int64, N, from 0 to len(class_names) - 1.
    class_names: the classes in label order.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise ValueError(f"images {tuple(self.images.shape)} and labels {tuple(self.labels.shape)} do not match")

    def __len__(self) -> int:
        return len(self.labels)
