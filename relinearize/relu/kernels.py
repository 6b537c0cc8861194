"""The passes over memory behind the activations: each as few and as vectorised as torch's own operators allow.

On a CPU an activation costs its memory traffic, so what counts is the number of passes over N x C x H x W values, that
no pass runs the scalar code which bool operands (`where`, `masked_fill`, `relu * mask`) and `_prelu_kernel_backward`
fall into, and that intermediate results stay in the cache. The choices were measured against each other for float32 and
bfloat16, contiguous and channels_last.
"""

import torch
from torch import Tensor

aten = torch.ops.aten

# Bytes handled at a time in SlopedReLU's backward on a CPU: the intermediate results of a part then fit the cache.
PART_BYTES = 2**22


def is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def in_layout_of(x: Tensor, values: Tensor) -> Tensor:
    """`values` (shape without batch) as 1 x shape, in the memory order of `x`: mixed orders run far slower."""
    values = values.unsqueeze(0)
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return values.contiguous(memory_format=layout)


def _floor(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where kept, -inf where not: log(1) and log(0), which is faster than `where` on bools."""
    return mask.to(dtype).log().to(dtype)  # autocast computes log in float32


def _linear(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where kept, 1 where not."""
    return mask.logical_not().to(dtype)


# A compiled CPU kernel that reads a bool mask per value is ten times slower than one that reads floats; behind a custom
# operator the small conversion stays out of the compiler's fusion.
_opaque_floor = torch.library.custom_op("relinearize::floor", _floor, mutates_args=())
_opaque_linear = torch.library.custom_op("relinearize::linear", _linear, mutates_args=())
for _opaque in (_opaque_floor, _opaque_linear):
    _opaque.register_fake(lambda mask, dtype: torch.empty_like(mask, dtype=dtype))


def _compiling_for_cpu(x: Tensor) -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting() and x.device.type == "cpu"


class MaskedReLUFunction(torch.autograd.Function):
    """where(mask, relu(x), x) as maximum(x, 0 or -inf); saves its output (which the next layer saves too) and the mask.

    Gradient: 0 where the position is kept and the output is not above 0 (as ReLU has it), else the incoming one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mask: Tensor) -> Tensor:
        floor = _opaque_floor if _compiling_for_cpu(x) else _floor
        return torch.maximum(x, floor(in_layout_of(x, mask), x.dtype))

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        output, mask = ctx.saved_tensors
        linear = _opaque_linear if _compiling_for_cpu(output) else _linear
        # Above zero exactly where the gradient passes; NaN stays NaN and passes, as in ReLU.
        passing = torch.maximum(output.detach(), linear(in_layout_of(output, mask), output.dtype))
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or gradient.stride() != passing.stride():
            return aten.threshold_backward(gradient, passing, 0), None
        return aten.threshold_backward.grad_input(gradient, passing, 0, grad_input=passing), None


class ReplacedReLUFunction(torch.autograd.Function):
    """where(mask, relu(x), polynomial(x)) as the sum of both with factors of 0 and 1; saves x.

    Of `where` on a channels_last input and a mask of C x H x W the backward pass alone takes ten times as long.
    coefficients: see replacement.py; they get no gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mask: Tensor, coefficients: Tensor) -> Tensor:
        kept, powers = _factors(x, mask, coefficients)
        return torch.addcmul(_horner(powers, x), kept, x.relu())

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, mask, coefficients = ctx.saved_tensors
        kept, powers = _factors(x, mask, coefficients)
        slope = _horner([degree * factor for degree, factor in enumerate(powers)][1:], x)
        of_relu = aten.threshold_backward(kept.expand_as(x), x, 0)
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            return gradient * (of_relu + slope), None, None
        return of_relu.add_(slope).mul_(gradient), None, None


def _factors(x: Tensor, mask: Tensor, coefficients: Tensor) -> tuple[Tensor, list[Tensor]]:
    """1 where kept, else 0; the factors of x^0, x^1 ..., 0 where kept. 1 x shape each, in the memory order of `x`."""
    linear = _opaque_linear if _compiling_for_cpu(x) else _linear
    removed = linear(in_layout_of(x, mask), x.dtype)
    slope, *further = (in_layout_of(x, one.to(x.dtype)) * removed for one in coefficients)
    intercept, *higher = further or [torch.zeros_like(removed)]
    return 1 - removed, [intercept, slope, *higher]


def _horner(powers: list[Tensor], x: Tensor) -> Tensor:
    """The sum of powers[k] x^k."""
    *lower, value = powers
    for factor in reversed(lower):
        value = torch.addcmul(factor, value, x)
    return value


class SlopedReLUFunction(torch.autograd.Function):
    """x - alpha*min(x, 0), one pass; saves x. With respect to alpha: -sum over the batch of gradient*min(x, 0).

    At x = 0 the gradient is (1 - alpha) times the incoming one: ReLU's where alpha is 1.
    """

    @staticmethod
    def forward(x: Tensor, alpha: Tensor) -> Tensor:
        return aten._prelu_kernel(x, in_layout_of(x, (1 - alpha).to(x.dtype)))

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient itself is to be differentiated
            below = torch.where(x <= 0, gradient, 0)
            return (gradient - alpha * below).to(x.dtype), -(below * x).to(alpha.dtype).sum(0)
        layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
        x, gradient = x.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
        input_gradient, alpha_learns = torch.empty_like(x), ctx.needs_input_grad[1]
        minus_alpha = rows(in_layout_of(x, alpha)).neg().to(x.dtype)
        dtype = torch.promote_types(alpha.dtype, x.dtype)  # of the sum of alpha's gradient
        total = torch.zeros(alpha.numel(), dtype=dtype, device=x.device)
        # hardtanh_backward passes what lies inside its bounds, both exclusive: x <= 0 is x < the least number above 0.
        upper = 2**-24 if x.dtype == torch.float16 else torch.finfo(x.dtype).tiny
        parts = [rows(one).split(images_per_part(x)) for one in (x, gradient, input_gradient)]
        for x_part, gradient_part, out_part in zip(*parts, strict=True):
            below = aten.hardtanh_backward(gradient_part, x_part, -torch.inf, upper)
            torch.addcmul(gradient_part, below, minus_alpha, out=out_part)
            if alpha_learns:
                total.sub_(below.mul_(x_part).sum(0, dtype=dtype))
        if not alpha_learns:
            return input_gradient, None
        if layout is torch.channels_last:
            channels, height, width = alpha.shape
            total = total.view(height, width, channels).permute(2, 0, 1)
        return input_gradient, total.view(alpha.shape).to(alpha.dtype)


def rows(x: Tensor) -> Tensor:
    """A view of N x positions in the order in which they lie in memory."""
    return (x.permute(0, 2, 3, 1) if is_channels_last(x) else x).flatten(1)


def images_per_part(x: Tensor) -> int:
    images = x.shape[0]
    if x.device.type != "cpu" or not images:
        return max(1, images)
    return min(images, max(1, PART_BYTES // max(1, x[0].nbytes)))
