"""What masked, sloped and replaced ReLUs cost, forward and backward, against ReLUs and the formulas as written."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.common import Row, Settings, interleaved
from relinearize.relu.activation import MaskedReLU, ReplacedReLU, SlopedReLU
from relinearize.relu.replacement import polynomial

Function = Callable[[Tensor], Tensor]


def functions(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Function]:
    """The contestants, with a mask that keeps half of the positions, slopes between 0 and 1, and quadratics."""
    generator = torch.Generator().manual_seed(0)
    half = torch.rand(shape, generator=generator) < 0.5
    quadratic = torch.rand(3, shape[0], 1, 1, generator=generator)
    masked, sloped, replaced = MaskedReLU(shape), SlopedReLU(shape), ReplacedReLU(quadratic, shape)
    masked.mask.copy_(half)
    replaced.mask.copy_(half)
    with torch.no_grad():
        sloped.alpha.copy_(torch.rand(shape, generator=generator))
    mask = half.to(dtype).unsqueeze(0)
    alpha = sloped.alpha.detach().clone().to(dtype).unsqueeze(0).requires_grad_()

    def naive_masked(x: Tensor) -> Tensor:
        return mask * F.relu(x) + (1 - mask) * x

    def naive_sloped(x: Tensor) -> Tensor:
        return alpha * F.relu(x) + (1 - alpha) * x

    def naive_replaced(x: Tensor) -> Tensor:
        return torch.where(half, x.relu(), polynomial(x, quadratic.to(dtype)))

    return {
        "relu": F.relu,
        "masked": masked,
        "naive masked": naive_masked,
        "sloped": sloped,
        "naive sloped": naive_sloped,
        "replaced": replaced,
        "naive replaced": naive_replaced,
    }


def forward_and_backward(function: Function, x: Tensor, gradient: Tensor) -> Callable[[], None]:
    def call() -> None:
        x.grad = None
        function(x).backward(gradient)

    return call


def measure(settings: Settings) -> Iterator[Row]:
    """Ratios of times, all from one run; `promise` holds for MaskedReLU against ReLU."""
    images, shape = (32, (16, 32, 32)) if settings.quick else (128, (64, 32, 32))
    for precision in settings.precisions:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        for layout in ("contiguous", "channels_last"):
            memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
            x = torch.randn(images, *shape).to(dtype=dtype, memory_format=memory_format).requires_grad_()
            gradient = torch.randn_like(x)
            for mode in ("eager", "compiled"):
                torch._dynamo.reset()
                variants = {}
                for name, function in functions(shape, dtype).items():
                    chosen = torch.compile(function, dynamic=False) if mode == "compiled" else function
                    variants[name] = forward_and_backward(chosen, x, gradient)
                seconds = interleaved(variants, settings.rounds, clock=settings.clock, warmup=2)
                size = "x".join(map(str, (images, *shape)))
                case = f"{size}, {precision}, {layout}, {mode}"
                yield from rows(case, seconds)


def rows(case: str, seconds: dict[str, float]) -> Iterator[Row]:
    masked, sloped, replaced = seconds["masked"], seconds["sloped"], seconds["replaced"]
    yield Row("activation", case, "MaskedReLU against relu", masked / seconds["relu"], "x its time", "about 1")
    yield Row("activation", case, "naive mask against MaskedReLU", seconds["naive masked"] / masked, "x its time")
    yield Row("activation", case, "naive slopes against SlopedReLU", seconds["naive sloped"] / sloped, "x its time")
    yield Row("activation", case, "ReplacedReLU (quadratic) against MaskedReLU", replaced / masked, "x its time")
    yield Row(
        "activation", case, "where and Horner against ReplacedReLU", seconds["naive replaced"] / replaced, "x its time"
    )
