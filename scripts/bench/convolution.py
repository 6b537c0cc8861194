"""The 3x3 convolutions of ResNet-18: Winograd's against torch's, forward and both gradients."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.common import Row, Settings, interleaved
from relinearize.convolution import resolve_convolutions
from relinearize.convolution.winograd import convolve

LAYERS = ((1, 1, 32, 1), (1, 2, 32, 2), (2, 2, 16, 1), (2, 4, 16, 2), (4, 4, 8, 1), (4, 8, 8, 2), (8, 8, 4, 1))
PARTS = ("forward", "images' gradient", "weights' gradient")


def measure(settings: Settings) -> Iterator[Row]:
    """GFLOP/s, counted as a direct convolution's, and the ratio. Nothing where the library cannot be had."""
    if resolve_convolutions("auto") == "torch":
        return
    batch = settings.batch // 2 if settings.quick else settings.batch
    for inputs, outputs, size, stride in LAYERS:
        channels = (settings.width * inputs, settings.width * outputs)
        case = f"{channels[0]} to {channels[1]} channels, {size} x {size}, stride {stride}, batch {batch}"
        operations = 2 * 9 * channels[0] * channels[1] * batch * (size // stride) ** 2
        for part in PARTS:
            variants = {
                "torch": step_of(part, F.conv2d, channels, size, stride, batch),
                "winograd": step_of(part, winograd, channels, size, stride, batch),
            }
            seconds = interleaved(variants, settings.rounds, clock=settings.clock, calls=2)
            for name, value in seconds.items():
                yield Row("convolution", case, f"{part}, {name}", operations / value / 1e9, "GFLOP/s")
            yield Row("convolution", case, f"{part}, ratio", seconds["torch"] / seconds["winograd"], "times")


def winograd(x: Tensor, weight: Tensor, bias: None, stride: int, padding: int) -> Tensor:
    return convolve(x, weight, bias, stride)


def step_of(
    part: str, convolution: Callable[..., Tensor], channels: tuple[int, int], size: int, stride: int, batch: int
) -> Callable[[], object]:
    """What computes `part` alone: a gradient's graph is made once and kept."""
    inputs, outputs = channels
    x = torch.randn(batch, inputs, size, size).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 3, 3).contiguous(memory_format=torch.channels_last)
    if part == "forward":
        return lambda: convolution(x, weight, None, stride, 1)
    wanted = (x if part == PARTS[1] else weight).requires_grad_()
    y = convolution(x, weight, None, stride, 1)
    gradient = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, wanted, gradient, retain_graph=True)
