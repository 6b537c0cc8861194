"""The same batches for a set too large for the device: workers read rows, the device crops and flips."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from relinearize.data.augment import crop_and_flip, pad_with_zeros, to_pixels
from relinearize.data.augmix import AugMix, mixed
from relinearize.data.trainloader import BatchPlan, TrainLoader
from relinearize.data.transfer import to_device


class ImageRows(Dataset):
    """Indexed by the rows of a whole batch; the images may be a memory-mapped file."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(rows)
        return self.images.index_select(0, chosen), self.labels[chosen]


class PlannedRows:
    """The sampler: the rows of the batches planned for the next pass."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class StreamingLoader(TrainLoader):
    """Training batches equal, bit for bit, to those of ResidentLoader, from images that stay where they are.

    images: uint8 N x H x W x C; labels: int64 N; rows: the training images among them (None for all); workers: reading
    processes, 0 to read in this one.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int,
        *,
        padding: int = 0,
        flip: bool = False,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        rows: Tensor | None = None,
        workers: int = 2,
        second_view: AugMix | str | None = None,
    ) -> None:
        self.rows = torch.arange(len(labels)) if rows is None else rows
        super().__init__(
            len(self.rows),
            batch_size,
            seed,
            padding=padding,
            flip=flip,
            parts=parts,
            rank=rank,
            world_size=world_size,
            second_view=second_view,
        )
        self.device = torch.device(device)
        self._sampler = PlannedRows()
        self._reader = DataLoader(
            ImageRows(images, labels),
            sampler=self._sampler,
            batch_size=None,  # the sampler hands out whole batches
            num_workers=workers,
            persistent_workers=workers > 0,  # parts of an epoch are short: do not start workers anew for each
            pin_memory=self.device.type == "cuda",
            # The reader draws nothing at random; its own generator keeps it from consuming the global one.
            generator=torch.Generator().manual_seed(seed & 0x7FFFFFFF),
        )

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[tuple[Tensor, ...]]:
        planned = list(plans)
        self._sampler.batches = [self.rows[plan.rows].tolist() for plan in planned]
        for plan, (images, labels) in zip(planned, self._reader, strict=True):
            images = pad_with_zeros(images.to(self.device, non_blocking=True), self.padding)
            every = torch.arange(len(labels), device=self.device)
            crops = crop_and_flip(images, every, to_device(plan.augmentation, self.device), self.padding)
            batch = to_pixels(crops), labels.to(self.device, non_blocking=True)
            if plan.second is not None:
                second = to_device(plan.second.augmentation, self.device)
                batch = *batch, mixed(crop_and_flip(images, every, second, self.padding), plan.second.augmix)
            yield batch
