"""Where training batches get their images: on the device, in memory, or in files that are decoded for each batch."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset

from relinearize.data.augment import crop_and_flip, draw_augmentation, pad_with_zeros, random_resized_crop, to_device
from relinearize.data.augmix import AugMixDraw
from relinearize.data.decoding import EncodedImages
from relinearize.data.order import seeded_generator
from relinearize.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """One batch before its pixels.

    rows: which images, int64 B; views: how each is cropped and flipped, int64 B x k for each time that it is seen;
    augmix: of the second view.
    """

    rows: Tensor
    views: list[Tensor]
    augmix: AugMixDraw | None = None


class TrainingImages(ABC):
    """A training set that gives the crops of planned batches."""

    device: torch.device
    padding: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def crops(self, plans: Iterator[BatchPlan]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """For each plan the labels and, for each view, the crops: uint8 B x H x W x C, both on the device."""

    def draw(self, count: int, flip: bool, *key: object) -> Tensor:
        """int64 `count` x k: how the images of a batch are cropped and flipped, a function of `key`, a stream first."""
        return draw_augmentation(count, self.padding, flip, seeded_generator(*key))


class ResidentImages(TrainingImages):
    """A training set on the device, padded with zeros once; the loaders of all stages share it. One gather per batch.

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
        self.padding, self.device = padding, torch.device(device)
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

    def crops(self, plans: Iterator[BatchPlan]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        for plan in plans:
            # One copy to the device per batch: the row and what was drawn for each view travel together.
            packed = to_device(torch.cat([plan.rows[:, None], *plan.views], dim=1), self.device)
            rows, views = packed[:, 0], packed[:, 1:].split(3, dim=1)
            yield self.labels[rows], [crop_and_flip(self.padded, rows, view, self.padding) for view in views]


class StreamedImages(TrainingImages):
    """Images that stay where they are: workers read, crop and flip them.

    images: uint8 N x H x W x C, perhaps a memory-mapped file; labels: int64 N; rows: the training images among them
    (None for all); padding: for the same crops, bit for bit, as those of ResidentImages; smallest_area: instead, random
    resized crops of encoded images of at least that share; workers: reading processes, 0 to read in this one.
    """

    def __init__(
        self,
        images: Tensor | EncodedImages,
        labels: Tensor,
        *,
        padding: int = 0,
        smallest_area: float | None = None,
        device: torch.device | str = "cpu",
        rows: Tensor | None = None,
        workers: int = 2,
    ) -> None:
        self.padding, self.resized, self.device = padding, smallest_area is not None, torch.device(device)
        self.rows = torch.arange(len(labels)) if rows is None else rows
        crops = ResizedCrops(images, labels, smallest_area) if self.resized else PaddedCrops(images, labels, padding)
        self._reader = Reader(crops, workers, self.device)

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, count: int, flip: bool, *key: object) -> Tensor:
        """Of resized crops: int64 `count` x 2, the seed of each image's crop, and whether it may be flipped."""
        if not self.resized:
            return super().draw(count, flip, *key)
        stream, *place = key
        seeds = torch.randint(0, 2**62, (count, 1), generator=seeded_generator(f"{stream} seeds", *place))
        return torch.cat([seeds, torch.full((count, 1), int(flip))], dim=1)

    def crops(self, plans: Iterator[BatchPlan]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        requests = [torch.cat([self.rows[plan.rows][:, None], *plan.views], dim=1) for plan in plans]
        for views, labels in self._reader.read(requests):
            yield labels, list(views.unbind())


# ---- reading in worker processes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PaddedCrops:
    """Indexed by (row, what is drawn for each view) of a batch: uint8 views x B x H x W x C, labels."""

    images: Tensor | EncodedImages
    labels: Tensor
    padding: int

    def __getitem__(self, request: list[list[int]]) -> tuple[Tensor, Tensor]:
        rows, *views = torch.tensor(request).split([1] + [3] * (len(request[0]) // 3), dim=1)
        padded = pad_with_zeros(self.images.index_select(0, rows[:, 0]), self.padding)
        crops = [crop_and_flip(padded, torch.arange(len(rows)), view, self.padding) for view in views]
        return torch.stack(crops), self.labels[rows[:, 0]]


@dataclass(frozen=True)
class ResizedCrops:
    """Indexed by (row, seed, flip, seed of the second view, flip) of a batch: uint8 views x B x H x W x C, labels."""

    images: EncodedImages
    labels: Tensor
    smallest_area: float

    def __getitem__(self, request: list[list[int]]) -> tuple[Tensor, Tensor]:
        _, size, _, channels = self.images.shape
        views = np.empty((len(request[0]) // 2, len(request), size, size, channels), np.uint8)
        for place, (row, *drawn) in enumerate(request):
            image = self.images.image(row)
            for view, seed, flip in zip(views, drawn[0::2], drawn[1::2], strict=True):
                crop = random_resized_crop(image, seed, size, self.smallest_area, bool(flip))
                view[place] = np.asarray(crop).reshape(size, size, channels)
        return torch.from_numpy(views), self.labels[[row for row, *_ in request]]


def left_to_the_first(_: int) -> None:
    """A signal to the whole group is the first process's, which saves the training first; workers end with it."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


class Reader:
    """Reads requested batches in worker processes and brings them to the device, in order."""

    def __init__(self, dataset: StackDataset | PaddedCrops | ResizedCrops, workers: int, device: torch.device) -> None:
        self.device = device
        self._requests: list[list] = []  # the sampler: the batches that are asked for next
        self._loader = DataLoader(
            dataset,
            sampler=self._requests,
            batch_size=None,  # the sampler hands out complete batches
            num_workers=workers,
            worker_init_fn=left_to_the_first,
            persistent_workers=workers > 0,  # parts of an epoch are short: do not start workers anew for each
            pin_memory=device.type == "cuda",
            # The reader draws nothing at random; its own generator keeps it from consuming the global one.
            generator=torch.Generator().manual_seed(0),
        )

    def read(self, requests: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of each request, on the device."""
        self._requests[:] = (request.tolist() for request in requests)
        try:
            for images, labels in self._loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except UserError as error:  # from a worker: torch puts the traceback before the message
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
