"""What Lightning and the stage's bookkeeping cost: the pipeline's fit() against a bare loop of the same step."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.common import CLOCKS, Row, Settings
from bench.steps import SIZE, StageStep, stage_of
from relinearize.data.loaders import TrainLoader
from relinearize.data.training_images import ResidentImages
from relinearize.methods.snl import SNLSearch
from relinearize.training.fit import fit
from relinearize.training.settings import TrainerSettings

SEGMENTS = 2  # parts of an epoch; at each end the search counts its ReLUs
PROMISE = {64: "<= 5 %", 16: "<= 15 %"}


class ClockedSearch(SNLSearch):
    """The search, with a clock from its first batch to its last: set-up and the final checkpoint stay outside."""

    clock = "wall"
    seconds_taken: list[float]

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 0:
            self.started = CLOCKS[self.clock]()
        super().on_train_epoch_start()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.current_epoch == self.segments - 1:
            self.seconds_taken.append(CLOCKS[self.clock]() - self.started)


def measure(settings: Settings) -> Iterator[Row]:
    """Percent by which the pipeline's loop is slower than the bare one, steps and batches being the same."""
    steps = 4 if settings.quick else 8
    loader = loader_of(steps * settings.batch, settings.batch)
    for precision in settings.precisions if settings.precision != "both" else ["32"]:
        case = f"resnet18 width {settings.width}, batch {settings.batch}, {precision}, {steps} steps"
        stage = stage_of("search", settings.width, settings.batch, search=ClockedSearch, checks_per_epoch=SEGMENTS)
        stage.clock, stage.seconds_taken = settings.clock, []
        stage.use(train_loader=loader, validation_loader=None, precision=precision, seed=0)
        bare = StageStep(stage_of("search", settings.width, settings.batch), precision)
        bare_seconds = []
        for _ in range(settings.rounds + 1):
            bare_seconds.append(bare_epoch(bare, loader, settings.clock))
            fit_once(stage, precision)
        pipeline, loop = min(stage.seconds_taken[1:]), min(bare_seconds[1:])
        overhead = 100 * (pipeline / loop - 1)
        yield Row("lightning", case, "fit() over a bare loop", overhead, "%", PROMISE.get(settings.width, ""))
        yield Row("lightning", case, "overhead of a step", 1000 * (pipeline - loop) / steps, "ms")


def loader_of(count: int, batch: int) -> TrainLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return TrainLoader(ResidentImages(images, labels, padding=4), batch, seed=0, flip=True, parts=SEGMENTS)


def bare_epoch(bare: StageStep, loader: TrainLoader, clock: str) -> float:
    started = CLOCKS[clock]()
    for part in range(SEGMENTS):
        loader.seek(0, part)
        for images, labels in loader:
            bare.step(images, labels)
    return CLOCKS[clock]() - started


def fit_once(stage: SNLSearch, precision: str) -> None:
    trainer = TrainerSettings.resolve(
        accelerator="cpu", precision=precision, compile=False, checkpoint_seconds=1e9, progress="none"
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(stage, trainer, Path(folder) / "last.ckpt")
