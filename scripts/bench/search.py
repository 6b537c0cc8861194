"""SNL's search step of ResNet-18: the pipeline's against a plain implementation of the paper's formulas."""

from collections.abc import Iterator

import torch

from bench.common import Row, Settings, interleaved, synchronize
from bench.naive import NaiveSearch
from bench.steps import StageStep, batch_of, network_of, normalised, stage_of


def measure(settings: Settings, device: str = "cpu", precisions: list[str] | None = None) -> Iterator[Row]:
    """Images a second of both, their ratio, and where the time goes in each. Both start from the same weights."""
    images, labels = batch_of(settings.batch, device)
    plain_images = normalised(images)
    for precision in precisions or (settings.precisions if settings.precision != "both" else ["32"]):
        case = f"resnet18 width {settings.width}, batch {settings.batch}, {precision}, {device}"
        ours = StageStep(stage_of("search", settings.width, settings.batch), precision, device)
        naive = NaiveSearch(network_of(settings.width).network.to(device))
        check_same_loss(ours, naive, (images, labels), plain_images, precision)
        variants = {
            "ours": lambda ours=ours: ours.step(images, labels),
            "naive": lambda naive=naive: naive.step(plain_images, labels),
            "ours teacher": lambda ours=ours: ours.teacher(images),
            "naive teacher": lambda naive=naive: naive.teacher(plain_images),
            "ours optimizer": ours.optimizer.step,
            "naive optimizer": naive.optimizer.step,
        }
        if settings.compile:
            compiled = StageStep(stage_of("search", settings.width, settings.batch), precision, device, compiled=True)
            variants["ours compiled"] = lambda compiled=compiled: compiled.step(images, labels)
        if ours.convolutions == "winograd":
            stage = stage_of("search", settings.width, settings.batch)
            direct = StageStep(stage, precision, device, convolutions="torch")
            variants["ours direct"] = lambda direct=direct: direct.step(images, labels)
        ours.step(images, labels), naive.step(plain_images, labels)  # optimizers need gradients
        synchronize(device)
        seconds = interleaved(variants, settings.rounds, clock=settings.clock, device=device)
        promise = ">= 4" if settings.width == 64 else ""
        yield Row("search", case, "ours", settings.batch / seconds["ours"], "images/s")
        yield Row("search", case, "naive", settings.batch / seconds["naive"], "images/s")
        yield Row("search", case, "ours against naive", seconds["naive"] / seconds["ours"], "x", promise)
        if "ours direct" in seconds:
            times = seconds["naive"] / seconds["ours direct"]
            yield Row("search", case, "ours with torch's convolutions against naive", times, "x")
        if settings.compile:
            yield Row("search", case, "compiled against eager", seconds["ours"] / seconds["ours compiled"], "x")
        yield from split_rows(case, seconds)


def split_rows(case: str, seconds: dict[str, float]) -> Iterator[Row]:
    """Shares of teacher forward, optimizer and the rest (student forward and the whole backward pass)."""
    for name in ("ours", "naive"):
        parts = {"teacher forward": seconds[f"{name} teacher"], "optimizer": seconds[f"{name} optimizer"]}
        parts["student forward, backward"] = seconds[name] - sum(parts.values())
        for part, value in parts.items():
            yield Row("search", case, f"{name}: {part}", 100 * value / seconds[name], "% of its step")


def check_same_loss(
    ours: StageStep, naive: NaiveSearch, batch: tuple, plain_images: torch.Tensor, precision: str
) -> None:
    """A comparison of speed is worth something only if both compute the same."""
    with torch.no_grad(), ours.autocast():
        mine, _ = ours.stage.loss(*batch)
    with torch.no_grad():
        theirs = naive.loss(plain_images, batch[1])
    tolerance = 5e-2 if precision == "bf16" else 1e-4
    torch.testing.assert_close(mine.float(), theirs, rtol=tolerance, atol=tolerance)
