"""SENet's steps against plain distillation of the same masked network: the time and memory of mismatch and PRAM."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.common import Row, Settings, interleaved, synchronize
from bench.steps import StageStep, batch_of, stage_of

VARIANTS = {  # name -> (kind of stage, its further settings)
    "plain": ("finetune", {}),
    "mask search": ("mask search", {}),
    "PRAM, attention": ("pram", {"form": "attention"}),
    "PRAM, activations": ("pram", {"form": "activations", "sites": "all", "distillation_weight": 0.9}),
}
PROMISES = {"mask search": "<= 15 at width 64"}


def measure(settings: Settings, device: str = "cpu", precisions: list[str] | None = None) -> Iterator[Row]:
    """Time over the plain step (percent), and peak memory over it (percent)."""
    images, labels = batch_of(settings.batch, device)
    for precision in precisions or (settings.precisions if settings.precision != "both" else ["32"]):
        case = f"resnet18 width {settings.width}, batch {settings.batch}, {precision}, {device}"
        steps = {name: step_of(name, settings, precision, device) for name in VARIANTS}
        variants = {name: lambda step=step: step.step(images, labels) for name, step in steps.items()}
        seconds = interleaved(variants, settings.rounds, clock=settings.clock, device=device)
        yield Row("senet", case, "plain step", settings.batch / seconds["plain"], "images/s")
        for name in list(VARIANTS)[1:]:
            over = 100 * (seconds[name] / seconds["plain"] - 1)
            yield Row("senet", case, f"{name}: time over it", over, "%", PROMISES.get(name, ""))
        del steps, variants
        peaks = {name: peak_memory(name, settings, precision, device) for name in VARIANTS}
        yield Row("senet", case, "plain step, peak memory", peaks["plain"] / 2**20, "MiB")
        for name in list(VARIANTS)[1:]:
            over = 100 * (peaks[name] / peaks["plain"] - 1)
            yield Row("senet", case, f"{name}: memory over it", over, "%", PROMISES.get(name, ""))


def step_of(name: str, settings: Settings, precision: str, device: str) -> StageStep:
    kind, further = VARIANTS[name]
    return StageStep(stage_of(kind, settings.width, settings.batch, **further), precision, device)


def peak_memory(name: str, settings: Settings, precision: str, device: str) -> int:
    """Bytes that two steps need at most: of the GPU, or, on Linux, of a process of their own beyond its start."""
    if torch.device(device).type == "cuda":
        return peak_of_steps(name, settings, precision, device)
    # Tensors in mappings of their own: freed ones leave the process at once, as a GPU's allocator would have it.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(peak_of_steps, (name, settings, precision, device))
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def peak_of_steps(name: str, settings: Settings, precision: str, device: str) -> int:
    torch.set_num_threads(settings.threads)
    batch = batch_of(settings.batch, device)
    step = step_of(name, settings, precision, device)
    on_card = torch.device(device).type == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
        before = high_water_mark()
    for _ in range(2):
        step.step(*batch)
    synchronize(device)
    if on_card:
        return torch.cuda.max_memory_allocated(device)
    return high_water_mark() - before


def high_water_mark() -> int:
    """The most memory that this process has held so far, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
