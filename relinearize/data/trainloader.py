"""What both training loaders share: the walk through epochs, parts, batches and shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from relinearize.data.augment import draw_augmentation
from relinearize.data.augmix import AugMix, AugMixDraw
from relinearize.data.order import batch_bounds, epoch_permutation, part_bounds, seeded_generator
from relinearize.errors import UserError


@dataclass(frozen=True)
class SecondView:
    """How the same images are seen a second time: their crops and flips (int64 B x 3), and their AugMix."""

    augmentation: Tensor
    augmix: AugMixDraw


@dataclass(frozen=True)
class BatchPlan:
    """One batch before its pixels: which images (int64 B) and how each is cropped and flipped (int64 B x 3)."""

    rows: Tensor
    augmentation: Tensor
    second: SecondView | None = None


class TrainLoader:
    """Batches of (pixels, labels) of an epoch, or of one of its consecutive parts.

    Yields images float32 in [0, 1], N x C x H x W, channels_last, and labels int64, both on the device. Every image is
    seen once per epoch. The order is a function of (seed, epoch), the crops of (seed, epoch, batch): `seek` replays any
    position bit for bit. Without `seek`, each iteration goes on with the next part. Lightning keeps `state_dict` in its
    checkpoints, so that a training saved inside of a part goes on with the batch that follows.

    batch_size: of all processes together. Process `rank` of `world_size` takes every world_size-th image of a batch, so
    the shards do not overlap and together are the batch of a single process, crops included.

    second_view: with "augmix", or AugMix settings, batches are (pixels, labels, second pixels): AugMix of the same
    images under a crop and flip of their own, as RLNet takes them from a second copy of the set. The first two are the
    same with and without it.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        padding: int = 0,
        flip: bool = False,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
        second_view: AugMix | str | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not below world_size={world_size}")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.padding, self.flip = padding, flip
        self.parts, self.rank, self.world_size = parts, rank, world_size
        self.second_view = read_second_view(second_view)
        self._bounds = batch_bounds(count, batch_size)
        self._part_bounds = part_bounds(self.batches_per_epoch, parts)
        smallest = min(end - start for start, end in zip(self._bounds, self._bounds[1:], strict=False))
        if smallest < 2 * world_size:
            raise UserError(
                f"batch_size={batch_size}: a batch of {smallest} images leaves a process of {world_size} "
                "fewer than the 2 images that batch norm needs; give a larger batch_size or fewer devices"
            )
        self._next = (0, 0, 0)
        self._given = {"epoch": 0, "part": 0, "batch": 0}

    @property
    def batches_per_epoch(self) -> int:
        return len(self._bounds) - 1

    def __len__(self) -> int:
        """Batches in the longest part."""
        return self._part_bounds[1]

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
        for given, batch in enumerate(self._batches(self._plans(epoch, part, first)), first + 1):
            self._given = {"epoch": epoch, "part": part, "batch": given}
            yield batch

    def _plans(self, epoch: int, part: int, first: int = 0) -> Iterator[BatchPlan]:
        """From batch `first` of the part on."""
        order = epoch_permutation(self.count, self.seed, epoch)
        for batch in range(*self._part_bounds[part : part + 2])[first:]:
            rows = order[self._bounds[batch] : self._bounds[batch + 1]]
            augmentation = draw_augmentation(len(rows), self.padding, self.flip, self.seed, epoch, batch)
            second = None if self.second_view is None else self._second_view(len(rows), epoch, batch)
            yield BatchPlan(rows[self.rank :: self.world_size], augmentation[self.rank :: self.world_size], second)

    def _second_view(self, count: int, epoch: int, batch: int) -> SecondView:
        augmentation = draw_augmentation(
            count, self.padding, self.flip, self.seed, epoch, batch, stream="second augmentation"
        )
        augmix = self.second_view.draw(count, seeded_generator("augmix", self.seed, epoch, batch))
        return SecondView(augmentation[self.rank :: self.world_size], augmix.shard(self.rank, self.world_size))

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[tuple[Tensor, ...]]:
        raise NotImplementedError


def read_second_view(second_view: AugMix | str | None) -> AugMix | None:
    if second_view == "augmix":
        return AugMix()
    if second_view is None or isinstance(second_view, AugMix):
        return second_view
    raise UserError(f"second_view={second_view}: valid are augmix (or AugMix settings) and none")
