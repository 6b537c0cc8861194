"""Batches of a training set, of which every one can be replayed, and of an evaluation set in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import StackDataset

from relinearize.data.augment import to_pixels
from relinearize.data.augmix import draw_augmix, mixed
from relinearize.data.decoding import EncodedImages
from relinearize.data.order import batch_bounds, part_bounds, seeded_generator
from relinearize.data.splits import stable_order
from relinearize.data.training_images import BatchPlan, Reader, TrainingImages
from relinearize.errors import UserError, check_choice

# Images of 64 pixels or fewer at once. On a CPU, maps of larger batches cost page faults: 1.4 times the time at 1,000.
EVALUATION_BATCH = {"cpu": 250, "cuda": 1000}


def evaluation_batch(device: str, images: Tensor | EncodedImages, counts: Mapping[str, int] = EVALUATION_BATCH) -> int:
    """How many images of N x H x W x C at once: `counts` of those of up to 64 pixels, see `by_size`."""
    return by_size(counts[device], images.shape[1])


def by_size(count: int, pixels: int) -> int:
    """`count` images of up to 64 `pixels` a side; of larger ones as many as have as many pixels together."""
    return max(1, count * 64**2 // max(64, pixels) ** 2)


class TrainLoader:
    """Batches of (pixels, labels) of an epoch, or of one of its consecutive parts.

    Yields images float32 in [0, 1], N x C x H x W, channels_last, and labels int64, both on the device. Every image is
    seen once per epoch. The order is a function of (seed, epoch), the crops of (seed, epoch, batch): `seek` replays any
    position bit for bit. Without `seek`, each iteration goes on with the next part. Lightning keeps `state_dict` in its
    checkpoints, so that a training saved inside of a part goes on with the batch that follows.

    batch_size: of all processes together. Process `rank` of `world_size` takes every world_size-th image of a batch, so
    the shards do not overlap and together are the batch of a single process, crops included.

    short_batch: see order.batch_bounds.

    second_view: with "augmix" batches are (pixels, labels, second pixels): AugMix of the same images under a crop and
    flip of their own, as RLNet takes them from a second copy of the set. The first two are the same without it.

    shares: into how many parts, each with batch norms of its own, the stage divides a batch.
    """

    def __init__(
        self,
        images: TrainingImages,
        batch_size: int,
        seed: int,
        *,
        flip: bool = False,
        short_batch: bool = False,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
        second_view: str | None = None,
        shares: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not below world_size={world_size}")
        self.images, self.batch_size, self.seed, self.flip = images, batch_size, seed, flip
        self.parts, self.rank, self.world_size = parts, rank, world_size
        check_choice("second_view", second_view, ("augmix", None))
        self.second_view = second_view
        self._bounds = batch_bounds(len(images), batch_size, short_batch)
        self._part_bounds = part_bounds(self.batches_per_epoch, parts)
        smallest = min(end - start for start, end in zip(self._bounds, self._bounds[1:], strict=False))
        if smallest < 2 * world_size * shares:
            problem = f"batch_size={batch_size}: a batch of {smallest} images"
            remedy = "a larger batch_size, fewer devices, or dataset.short_batch=false"
            if len(self._bounds) == 2:  # a larger batch would be the same
                problem = f"only {smallest} training images: a batch of them"
                remedy = "more images, fewer devices, or fewer method.routes"
            raise UserError(
                f"{problem} leaves a batch norm fewer than the 2 that it needs ({world_size} device(s), "
                f"{shares} route(s)); give {remedy}"
            )
        self._next = (0, 0, 0)
        self._given = {"epoch": 0, "part": 0, "batch": 0}

    @property
    def batches_per_epoch(self) -> int:
        return len(self._bounds) - 1

    def __len__(self) -> int:
        """Batches in the longest part."""
        return self._part_bounds[1]

    def batches_of(self, part: int) -> int:
        return self._part_bounds[part + 1] - self._part_bounds[part]

    def weight(self, part: int, batch: int) -> float:
        """What a mean over this process's share of a batch counts in the mean over the processes: so many images as it
        has, of an equal share. Not 1 where the processes do not divide the batch."""
        place = self._part_bounds[part] + batch
        first, end = self._bounds[place : place + 2]
        return len(range(first + self.rank, end, self.world_size)) * self.world_size / (end - first)

    def seek(self, epoch: int, part: int = 0) -> None:
        """Make the next iteration yield this part; takes effect when its first batch is asked for."""
        if epoch < 0 or not 0 <= part < self.parts:
            raise ValueError(f"epoch={epoch}, part={part}: there are {self.parts} parts, counted from 0")
        self._next = (epoch, part, 0)

    def state_dict(self) -> dict[str, int]:
        """The part of which batches were yielded last, and how many of them."""
        return dict(self._given)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration yield what is left of that part."""
        self._next = (state["epoch"], state["part"], state["batch"])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        # A generator: its body, and with it the look at the position, runs at the first next(), not at iter(). Trainers
        # call iter() early and seek() later.
        epoch, part, first = self._next
        self._next = (epoch, part + 1, 0) if part + 1 < self.parts else (epoch + 1, 0, 0)
        plans, planned = itertools.tee(self._plans(epoch, part, first))
        crops = self.images.crops(planned)
        for given, (plan, (labels, views)) in enumerate(zip(plans, crops, strict=True), first + 1):
            self._given = {"epoch": epoch, "part": part, "batch": given}
            second = () if plan.augmix is None else (mixed(views[1], plan.augmix),)
            yield to_pixels(views[0]), labels, *second

    def _plans(self, epoch: int, part: int, first: int = 0) -> Iterator[BatchPlan]:
        """From batch `first` of the part on."""
        order = torch.randperm(len(self.images), generator=seeded_generator("order", self.seed, epoch))
        for batch in range(*self._part_bounds[part : part + 2])[first:]:
            rows = order[self._bounds[batch] : self._bounds[batch + 1]]
            drawn, key = (len(rows), self.flip), (self.seed, epoch, batch)
            views, augmix = [self._share(self.images.draw(*drawn, "augmentation", *key))], None
            if self.second_view is not None:
                views.append(self._share(self.images.draw(*drawn, "second augmentation", *key)))
                augmix = draw_augmix(len(rows), seeded_generator("augmix", *key))
                augmix = augmix.shard(self.rank, self.world_size)
            yield BatchPlan(self._share(rows), views, augmix)

    def _share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch."""
        return batch[self.rank :: self.world_size]


class OrderedLoader:
    """Yields (images float32 in [0, 1], N x C x H x W, channels_last; labels int64) on the device, the same each time:
    every image once, in order, without augmentation.

    images: uint8 N x H x W x C, on the device or not (then each batch is copied there), or encoded images, which
    `workers` processes decode; rows: the images to show (int64, positions), None for all; batch_size: None for
    `evaluation_batch`. drawn: in an order that is drawn, always the same, as sets may be sorted by class: the first
    images then stand for all. Process `rank` of `world_size` gets every world_size-th: each is shown in one process.
    """

    def __init__(
        self,
        images: Tensor | EncodedImages,
        labels: Tensor,
        batch_size: int | None = None,
        device: torch.device | str = "cpu",
        rows: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        drawn: bool = False,
    ) -> None:
        self.images, self.labels, self.device = images, labels, torch.device(device)
        rows = torch.arange(len(labels)) if rows is None else rows
        if drawn:
            rows = rows[torch.from_numpy(stable_order(len(rows), 0, "validation"))]
        self.rows = rows[rank::world_size]
        if not len(self.rows) and world_size > 1:
            raise UserError(f"fewer images to evaluate on than trainer.devices={world_size}; give fewer devices")
        self.batch_size = batch_size or evaluation_batch(self.device.type, images)
        encoded = isinstance(images, EncodedImages)
        self._reader = Reader(StackDataset(images, labels), workers, self.device) if encoded else None

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.rows.split(self.batch_size)
        if self._reader is not None:
            read = self._reader.read(list(batches))
        else:
            read = ((self.images[rows].to(self.device), self.labels[rows].to(self.device)) for rows in batches)
        for images, labels in read:
            yield to_pixels(images), labels
