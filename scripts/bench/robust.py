"""RLNet's adversarial training step (PGD-7, two routes): the pipeline's against a plain one of the same formulas."""

import functools
from collections.abc import Iterator

from bench.common import Row, Settings, interleaved
from bench.naive_robust import NaiveRobust
from bench.steps import StageStep, batch_of, network_of, stage_of
from relinearize.methods.stage.stage import Stage

PROMISE = ">= 2"


def measure(settings: Settings, device: str = "cpu") -> Iterator[Row]:
    """Images a second of the plain step in float32, and how many times as many ours makes."""
    batch = (*batch_of(settings.batch, device), batch_of(settings.batch, device)[0].flip(0))
    plain = tuple(part.contiguous() for part in batch)
    for kind in ("teacher", "student"):
        new_stage = functools.partial(stage_of, f"robust {kind}", settings.width, settings.batch)
        stages = {precision: new_stage() for precision in settings.precisions}
        steps = {precision: StageStep(stage, precision, device) for precision, stage in stages.items()}
        if steps[settings.precisions[0]].convolutions == "winograd":
            steps["32 with torch's convolutions"] = StageStep(new_stage(), "32", device, convolutions="torch")
        if settings.compile:
            compiled = StageStep(new_stage(), settings.precisions[0], device, compiled=True)
            steps[f"{settings.precisions[0]} compiled"] = compiled
        naive = naive_of(kind, stages[settings.precisions[0]], settings.width, device)
        variants = {"plain": lambda naive=naive: naive.step(*plain)}
        variants |= {name: lambda step=step: step.step(*batch) for name, step in steps.items()}
        check_losses({name: float(step()) for name, step in variants.items()})
        seconds = interleaved(variants, settings.rounds, clock=settings.clock, device=device)
        case = f"{kind}, resnet18 width {settings.width}, batch {settings.batch}, PGD-7, {device}"
        yield Row("robust", case, "plain, 32", settings.batch / seconds["plain"], "images/s")
        for name in steps:
            yield Row("robust", case, f"ours, {name}", settings.batch / seconds[name], "images/s")
            times = seconds["plain"] / seconds[name]
            yield Row("robust", case, f"ours, {name}, over plain", times, "times", PROMISE if name == "32" else "")


def check_losses(losses: dict[str, float]) -> None:
    """Raises where the first steps of two variants are not of one loss; their attacks start at random differently."""
    if max(losses.values()) > 1.05 * min(losses.values()):
        raise AssertionError(f"the variants do not compute the same loss: {losses}")


def naive_of(kind: str, stage: Stage, width: int, device: str) -> NaiveRobust:
    """The plain version of the same step, with the same mask."""
    network, teacher = network_of(width).to(device), network_of(width).to(device)
    if kind == "teacher":
        return NaiveRobust(network)
    stage.mask.apply(network.network)
    return NaiveRobust(network, teacher)
