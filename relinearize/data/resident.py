"""Batches from a set that lies on the training device: no workers, no copies of pixels, one gather per batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from relinearize.data.augment import crop_and_flip, to_pixels
from relinearize.data.augmix import AugMix, mixed
from relinearize.data.trainloader import BatchPlan, TrainLoader
from relinearize.data.transfer import to_device


class ResidentImages:
    """A training set on the device, padded with zeros once; the loaders of all stages share it.

    images: uint8 N x H x W x C, on any device; rows: the images to keep (int64, positions), None for all.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        padding: int = 0,
        device: torch.device | str = "cpu",
        rows: Tensor | None = None,
    ) -> None:
        self.padding = padding
        self.device = torch.device(device)
        rows = torch.arange(len(labels)) if rows is None else rows
        count, (height, width, channels) = len(rows), images.shape[1:]
        shape = (count, height + 2 * padding, width + 2 * padding, channels)
        self.padded = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        inside = self.padded[:, padding : padding + height, padding : padding + width]
        # In pieces: the set, its chosen rows and the padded copy need not all be in memory at once.
        for start in range(0, count, 4096):
            inside[start : start + 4096] = images.index_select(0, rows[start : start + 4096]).to(self.device)
        self.labels = labels[rows].to(self.device)

    def __len__(self) -> int:
        return len(self.labels)


class ResidentLoader(TrainLoader):
    """Training batches from `ResidentImages`; see TrainLoader for what is yielded and in which order."""

    def __init__(
        self,
        images: ResidentImages,
        batch_size: int,
        seed: int,
        *,
        flip: bool = False,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
        second_view: AugMix | str | None = None,
    ) -> None:
        super().__init__(
            len(images),
            batch_size,
            seed,
            padding=images.padding,
            flip=flip,
            parts=parts,
            rank=rank,
            world_size=world_size,
            second_view=second_view,
        )
        self.images = images

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[tuple[Tensor, ...]]:
        images = self.images
        for plan in plans:
            # One copy to the device per batch: row, top, left and flip (of the second view, too) travel together.
            columns = [plan.rows[:, None], plan.augmentation]
            if plan.second is not None:
                columns.append(plan.second.augmentation)
            packed = to_device(torch.cat(columns, dim=1), images.device)
            rows = packed[:, 0]
            crops = crop_and_flip(images.padded, rows, packed[:, 1:4], images.padding)
            batch = to_pixels(crops), images.labels[rows]
            if plan.second is not None:
                crops = crop_and_flip(images.padded, rows, packed[:, 4:], images.padding)
                batch = *batch, mixed(crops, plan.second.augmix)
            yield batch
