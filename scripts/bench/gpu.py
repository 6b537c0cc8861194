"""Training steps on a CUDA GPU: images a second and the share of the GPU's bf16 matrix rate."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import robust, search
from bench.common import Row, Settings, interleaved
from bench.steps import StageStep, batch_of, stage_of
from relinearize.machine import device_name

NAMES = {"teacher": "teacher step", "search": "SNL search step", "finetune": "distillation step"}
STEPS = 10  # timed together: a step is a few milliseconds
MODES = {"eager": False, "compiled": True, "reduce-overhead": "reduce-overhead"}


def measure(settings: Settings, device: str = "cuda", matrix: int = 8192) -> Iterator[Row]:
    """Every stage in bf16, in each of MODES (trainer.compile), then the search and RLNet's steps against plain float32
    implementations.

    Operations are those of convolutions and matrix products, forward and backward, as torch counts them; the rate they
    are compared with is that of a product of two `matrix` x `matrix` bf16 matrices in the same run. `device` "cpu" and
    a small matrix run the same code where there is no GPU (a test does).
    """
    settings = replace(settings, clock="wall")
    peak = matrix_rate(device, matrix, settings.rounds)
    yield Row("gpu", device_name(device), f"bf16 product of {matrix} x {matrix}", peak / 1e12, "TFLOP/s")
    images, labels = batch_of(settings.batch, device)
    for kind, name in NAMES.items():
        operations = count_operations(kind, settings, device)
        torch.compiler.reset()  # or the compiler finds its limit of forms for one forward, and runs the rest eagerly
        variants = {}
        for mode in MODES if device == "cuda" or settings.compile else ("eager",):
            step = StageStep(stage_of(kind, settings.width, settings.batch), "bf16", device, MODES[mode])
            variants[mode] = lambda step=step: step.step(images, labels)
        seconds = interleaved(variants, settings.rounds, device=device, warmup=2, calls=STEPS)
        for mode, taken in seconds.items():
            case = f"resnet18 width {settings.width}, batch {settings.batch}, bf16, {mode}"
            yield Row("gpu", case, name, settings.batch / taken, "images/s")
            yield Row("gpu", case, f"{name}: of the matrix rate", 100 * operations / taken / peak, "%")
    for row in search.measure(settings, device, ["bf16"]):
        yield replace(row, benchmark="gpu")
    compiled = device == "cuda" or settings.compile
    for row in robust.measure(replace(settings, precision="bf16", compile=compiled), device):
        yield replace(row, benchmark="gpu")


def matrix_rate(device: str, size: int, rounds: int) -> float:
    """Operations a second of a large bf16 matrix product."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = interleaved({"product": lambda: left @ right}, rounds, device=device, warmup=2)
    return 2 * size**3 / seconds["product"]


def count_operations(kind: str, settings: Settings, device: str) -> int:
    """Operations of one step: forward of every network, and twice that backward for the one that is trained.

    Per image they do not depend on the batch, so two images are enough.
    """
    stage = stage_of(kind, settings.width, settings.batch)
    images, _ = batch_of(2, device)
    operations = 0
    for network, passes in ((stage.network, 3), *((teacher, 1) for teacher in stage._frozen)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.to(device)(images)
        operations += passes * counter.get_total_flops()
    return operations * settings.batch // 2
