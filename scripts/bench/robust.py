"""RLNet's adversarial training step (PGD-7, two routes): the pipeline's against a plain one of the same formulas."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.common import Row, Settings, interleaved
from bench.naive_robust import NaiveRobust
from bench.steps import StageStep, batch_of, network_of
from relinearize.backbones.routes import ROUTES, with_routes
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.rlnet.search import RLNetSearch
from relinearize.methods.rlnet.teacher import RobustClassifier
from relinearize.methods.stage import Stage
from relinearize.relu.sites import site_shapes

PROMISE = ">= 2"
SHARE = 0.25  # of the ReLUs that the student's mask keeps


def measure(settings: Settings, device: str = "cpu") -> Iterator[Row]:
    """Images a second of the plain step in float32, and how many times as many ours makes."""
    batch = (*batch_of(settings.batch, device), batch_of(settings.batch, device)[0].flip(0))
    plain = tuple(part.contiguous() for part in batch)
    for kind in ("teacher", "student"):
        stages = {precision: robust_stage(kind, settings.width, settings.batch) for precision in settings.precisions}
        steps = {precision: RobustStep(stage, precision, device) for precision, stage in stages.items()}
        if steps[settings.precisions[0]].convolutions == "winograd":
            stage = robust_stage(kind, settings.width, settings.batch)
            steps["32 with torch's convolutions"] = RobustStep(stage, "32", device, convolutions="torch")
        if settings.compile:
            stage = robust_stage(kind, settings.width, settings.batch)
            steps[f"{settings.precisions[0]} compiled"] = RobustStep(
                stage, settings.precisions[0], device, compiled=True
            )
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


class RobustStep(StageStep):
    """Steps whose batches have a second view."""

    def step(self, *batch: Tensor) -> Tensor:
        with self.autocast():
            loss, _ = self.stage.loss(*batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def robust_stage(kind: str, width: int, batch: int) -> Stage:
    """The teacher's stage, or ("student") the mask search's under a mask of a quarter of the ReLUs. channels_last."""
    network = with_routes(network_of(width), ROUTES[2])
    common = {"epochs": 1, "batch_size": batch, "learning_rate": 1e-3}
    if kind == "teacher":
        stage: Stage = RobustClassifier(network, **common)
    else:
        shapes = site_shapes(network.network)
        budget = int(SHARE * sum(torch.Size(shape).numel() for shape in shapes.values()))
        even = dict.fromkeys(shapes, 1.0)
        stage = RLNetSearch(
            network, frozen_copy(network_of(width)), sensitivities=even, budget=budget, selection="last", **common
        )
        stage.put_on(stage.first_mask(0))
    for part in (stage.network, *stage._frozen):
        part.to(memory_format=torch.channels_last)
    return stage


def naive_of(kind: str, stage: Stage, width: int, device: str) -> NaiveRobust:
    """The plain version of the same step, with the same mask."""
    network, teacher = network_of(width).to(device), network_of(width).to(device)
    if kind == "teacher":
        return NaiveRobust(network)
    stage.mask.apply(network.network)
    return NaiveRobust(network, teacher)
