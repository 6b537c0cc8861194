"""The resident loader on CIFAR-sized images: random crops (padding 4) and flips, batches of 128; and AugMix."""

from collections.abc import Iterator

import torch

from bench.common import Row, Settings, interleaved
from relinearize.data.augmix import draw_augmix, mixed
from relinearize.data.loaders import TrainLoader
from relinearize.data.training_images import ResidentImages

COUNT = 50_000


def measure(settings: Settings) -> Iterator[Row]:
    """Images a second, and the share of the speed of a loader that neither crops nor flips."""
    count = COUNT // 5 if settings.quick else COUNT
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    loader = TrainLoader(ResidentImages(images, labels, padding=4), settings.batch, seed=0, flip=True)

    def ours() -> None:
        loader.seek(0)
        for _ in loader:
            pass

    def plain() -> None:
        for rows in torch.randperm(count).split(settings.batch):
            images[rows].permute(0, 3, 1, 2).float().div_(255), labels[rows]

    def augmix() -> None:
        mixed(images[: settings.batch], draw_augmix(settings.batch, generator))

    variants = {"ours": ours, "plain": plain, "augmix": augmix}
    seconds = interleaved(variants, settings.rounds, clock=settings.clock)
    case = f"32 x 32 x 3, batch {settings.batch}, {settings.threads} thread(s)"
    yield Row("loader", case, "crop, flip, to float", count / seconds["ours"], "images/s", ">= 50,000 on one thread")
    yield Row("loader", case, "against no crop, no flip", seconds["plain"] / seconds["ours"], "x its speed")
    yield Row("loader", case, "AugMix of one batch", settings.batch / seconds["augmix"], "images/s")
