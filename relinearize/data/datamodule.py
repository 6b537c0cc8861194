"""An image set made ready for training: subset, hold-out, residence, and the three kinds of loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from relinearize.data.augment import Augmentation
from relinearize.data.decoding import EncodedImages
from relinearize.data.loaders import OrderedLoader, TrainLoader
from relinearize.data.source import ImageSet, Source, check_set
from relinearize.data.splits import choose_subset, split_holdout, stable_order
from relinearize.data.training_images import ResidentImages, StreamedImages, TrainingImages
from relinearize.errors import UserError
from relinearize.machine import available_memory

GIB = 2**30
DEFAULT_LIMIT_GB = 8.0
Shown = tuple[Tensor | EncodedImages, Tensor, Tensor | None]  # images, labels, and which of them; None: all
STATISTICS_IMAGES = 2000  # of which mean and std are computed where images have to be decoded for that


class ImageData:
    """Loaders over one source.

    mean, std: per channel, in pixels of [0, 1]; not applied here, the network's input adapter does.
    augment: see Augmentation; of training batches only.
    holdout: fraction of the training images, stratified, for choosing models; 0 for none.
    subset: number of training images to use, stratified, before the hold-out is taken; None for all.
    seed: of the two choices above, not of the batches.
    short_batch: the last batch of an epoch may have few images; else it shares with the one before it (order.py).
    resident: "auto" keeps the sets on the device where they fit, True always, False never (batches are the same).
    resident_limit_gb: what fits, in GiB; None for 8 GiB or half of the free memory, whichever is less.
    workers: reading processes of a set that is not resident. processes: that train together, each with a copy.
    """

    def __init__(
        self,
        source: Source,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Mapping[str, Any],
        holdout: float = 0.1,
        subset: int | None = None,
        short_batch: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        resident: bool | str = "auto",
        resident_limit_gb: float | None = None,
        workers: int = 2,
        processes: int = 1,
    ) -> None:
        self.source = source
        self.mean = channel_values("dataset.mean", mean, source.channels)
        self.std = channel_values("dataset.std", std, source.channels, positive=True)
        self.augmentation = Augmentation.read(augment, source.image_size)
        if self.augmentation.smallest_area is not None and not source.stream:
            raise UserError(
                f"dataset.augment.random_resized_crop={self.augmentation.random_resized_crop}: the images of "
                f"{source.name} have one size; use crop_padding, or the sets image_folder, imagenet and torchvision"
            )
        if resident not in ("auto", True, False):
            raise UserError(f"dataset.resident={resident}: valid are auto, true, false")
        self.holdout, self.subset, self.short_batch, self.seed = holdout, subset, short_batch, seed
        self.device = torch.device(device)
        self.resident, self.resident_limit_gb, self.workers = resident, resident_limit_gb, workers
        self.processes = processes

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images used for {"train", "holdout", "test"}."""
        train, holdout = self._rows
        return {"train": len(train), "holdout": len(holdout), "test": len(self._test)}

    def train_loader(self, batch_size: int, seed: int, **share: Any) -> TrainLoader:
        """Augmented training batches; share: parts, rank, world_size, shares and second_view of TrainLoader."""
        order = dict(flip=self.augmentation.flip, short_batch=self.short_batch)
        return TrainLoader(self._training_images(), batch_size, seed, **order, **share)

    def holdout_loader(self, batch_size: int | None = None, **share: Any) -> OrderedLoader | None:
        """The held-out training images, or a process's share of them, in order, without augmentation.

        None with holdout=0.
        """
        if self.sizes["holdout"] == 0:
            return None
        return self._ordered(self._held_out, batch_size, **share)

    def test_loader(self, batch_size: int | None = None, **share: Any) -> OrderedLoader:
        """The test set, or a process's share of it, in order, without augmentation."""
        return self._ordered(self._tested, batch_size, **share)

    def _ordered(self, shown: Shown, batch_size: int | None, **share: Any) -> OrderedLoader:
        """share: rank, world_size and drawn of OrderedLoader."""
        images, labels, rows = shown
        return OrderedLoader(images, labels, batch_size, self.device, rows, workers=self.workers, **share)

    @cached_property
    def is_resident(self) -> bool:
        """Whether the sets lie on the device. Decided once, before anything is copied there."""
        if self.source.stream:
            if self.resident is True:
                raise UserError("dataset.resident=true: images that are decoded for each batch cannot be resident")
            return False
        if self.resident != "auto":
            return bool(self.resident)
        limit = self.resident_limit_gb
        sharing = self.processes if self.device.type == "cpu" else 1
        fits = min(DEFAULT_LIMIT_GB * GIB, free_bytes(self.device) / 2 / sharing)
        limit_bytes = fits if limit is None else limit * GIB
        return self.resident_bytes <= limit_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of the padded training images, the held-out and the test images on the device."""
        size, channels, sizes = self.source.image_size, self.source.channels, self.sizes
        padded = (size + 2 * self.augmentation.crop_padding) ** 2 * channels
        return sizes["train"] * padded + (sizes["holdout"] + sizes["test"]) * size**2 * channels

    @cached_property
    def _train(self) -> ImageSet:
        return check_set(self.source.load("train"), self.source, "train")

    @cached_property
    def _test(self) -> ImageSet:
        return check_set(self.source.load("test"), self.source, "test")

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """Positions of the training and of the held-out images in the source's training split."""
        labels = self._train.labels.numpy()
        used = torch.arange(len(labels))
        if self.subset is not None:
            used = torch.from_numpy(choose_subset(labels, self.subset, self.seed))
        train, held_out = split_holdout(labels[used.numpy()], self.holdout, self.seed)
        return used[torch.from_numpy(train)], used[torch.from_numpy(held_out)]

    def _training_images(self) -> TrainingImages:
        if self.is_resident:
            return self._resident_train
        images, labels = self._train.images, self._train.labels
        crops = dict(padding=self.augmentation.crop_padding, smallest_area=self.augmentation.smallest_area)
        place = dict(device=self.device, rows=self._rows[0], workers=self.workers)
        return StreamedImages(images, labels, **crops, **place)

    @cached_property
    def _resident_train(self) -> ResidentImages:
        padding = self.augmentation.crop_padding
        return ResidentImages(
            self._train.images, self._train.labels, padding=padding, device=self.device, rows=self._rows[0]
        )

    @cached_property
    def _held_out(self) -> Shown:
        images, labels, rows = self._train.images, self._train.labels, self._rows[1]
        if not self.is_resident:
            return images, labels, rows
        return images[rows].to(self.device), labels[rows].to(self.device), None

    @cached_property
    def _tested(self) -> Shown:
        images, labels = self._test.images, self._test.labels
        if not self.is_resident:
            return images, labels, None
        return images[:].to(self.device), labels.to(self.device), None  # [:] decodes what is not decoded yet


def channel_statistics(source: Source) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of the training images, in pixels of [0, 1], to four digits.

    Of STATISTICS_IMAGES images, always the same, where images are decoded for each batch.
    """
    images = source.load("train").images
    if isinstance(images, EncodedImages):
        images = images[torch.from_numpy(stable_order(len(images), 0, "statistics")[:STATISTICS_IMAGES])]
    total = torch.zeros(2, images.shape[-1], dtype=torch.float64)
    for chunk in images.split(1000):
        pixels = chunk.flatten(0, 2).to(torch.float64) / 255
        total += torch.stack([pixels.sum(0), pixels.square().sum(0)])
    mean, square = total / images[..., 0].numel()
    deviation = (square - mean**2).clamp(min=0).sqrt()
    return [round(value, 4) for value in mean.tolist()], [round(value, 4) for value in deviation.tolist()]


def channel_values(key: str, values: Sequence[float], channels: int, positive: bool = False) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != channels:
        raise UserError(f"{key}={list(numbers)}: needs one number for each of {channels} channel(s)")
    if positive and min(numbers) <= 0:
        raise UserError(f"{key}={list(numbers)}: standard deviations must be above 0")
    return numbers


def free_bytes(device: torch.device) -> float:
    """Memory of the device that is free now; unlimited where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()
