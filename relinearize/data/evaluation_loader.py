"""Batches for evaluation: every image once, in order, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from relinearize.data.augment import to_pixels
from relinearize.errors import UserError

# Images at once, by device type. On a CPU, the maps of larger batches cost page faults: 1.4 times the time at 1,000.
EVALUATION_BATCH = {"cpu": 250, "cuda": 1000}


class OrderedLoader:
    """Yields (images float32 in [0, 1], N x C x H x W, channels_last; labels int64) on the device, the same each time.

    images: uint8 N x H x W x C, on the device or not (then each batch is copied there); rows: the images to show
    (int64, positions), None for all; batch_size: None for EVALUATION_BATCH. Process `rank` of `world_size` gets every
    world_size-th image, so that each is shown in one process.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int | None = None,
        device: torch.device | str = "cpu",
        rows: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if world_size > 1:
            rows = (torch.arange(len(labels)) if rows is None else rows)[rank::world_size]
            if not len(rows):
                raise UserError(f"fewer images to evaluate on than trainer.devices={world_size}; give fewer devices")
        self.images, self.labels, self.rows = images, labels, rows
        self.device = torch.device(device)
        self.batch_size = batch_size or EVALUATION_BATCH[self.device.type]
        self.count = len(labels) if rows is None else len(rows)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.count, self.batch_size):
            window = slice(start, start + self.batch_size)
            chosen = window if self.rows is None else self.rows[window]
            yield to_pixels(self.images[chosen].to(self.device)), self.labels[chosen].to(self.device)
