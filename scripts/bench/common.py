"""What all benchmarks share: their settings, the rows they yield, and how two things are timed against each other."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Settings:
    """Options of the command line. width: channels of the first stage of ResNet-18; batch: images a step.

    clock: "wall", or "cpu", the processor time of this process, which other processes disturb far less. With two
    threads or more it counts their waiting too, so it is honest on one thread only.
    """

    threads: int = 1
    width: int = 64
    batch: int = 128
    precision: str = "both"
    rounds: int = 5
    quick: bool = False
    compile: bool = False
    clock: str = "wall"

    @property
    def precisions(self) -> list[str]:
        return ["32", "bf16"] if self.precision == "both" else [self.precision]


@dataclass(frozen=True)
class Row:
    """One number: what was measured on which case, and what was promised of it."""

    benchmark: str
    case: str
    measure: str
    value: float
    unit: str
    promise: str = ""


def synchronize(device: torch.device | str = "cpu") -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: str = "wall",
    device: torch.device | str = "cpu",
    warmup: int = 1,
    calls: int = 1,
) -> dict[str, float]:
    """Seconds a call of each variant, the least of `rounds` rounds.

    The variants take turns, so what else runs on the machine hits all alike, and the least is what it disturbed least.
    `calls` calls are timed together where a single one is too short for the clock.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(warmup + rounds):
        for name, variant in variants.items():
            synchronize(device)
            started = now()
            for _ in range(calls):
                variant()
            synchronize(device)
            if round_ >= warmup:
                seconds[name].append((now() - started) / calls)
    return {name: min(values) for name, values in seconds.items()}
