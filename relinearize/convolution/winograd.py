"""3x3 convolutions with padding 1 and stride 1 or 2 in float32 by Winograd's algorithm, differentiable once.

Lavin and Gray, "Fast algorithms for convolutional neural networks" (CVPR 2016); the arithmetic is in winograd.c. A
quarter of the products of a direct convolution for stride 1, 81 of 144 for stride 2. Results differ from its by
rounding: about 1e-5 of the largest value, where those of two direct ones differ by 1e-6.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from relinearize.convolution.building import library

SAME, HALVING, DOUBLING = range(3)  # as winograd.c calls them: stride 1, stride 2, and the latter's input's gradient
LANES = 16  # channels come in as many as a panel of the working memory holds
LEAST_SIZE = 3  # of a map of results: one of 2 x 2 would save no products
# Tiles at a time, measured. Of a convolution so many that a thread's matrices stay in its cache, or with many channels
# so many that it is worth reading their weights; of a gradient of the weights more, since its sums are read and written
# once a block.
BLOCK, BLOCK_OF_MANY, GRADIENT_BLOCK = 36, 72, 144
MANY = 512  # channels in and out together


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """F.conv2d(x, weight, bias, stride, padding=1) with a weight of O x I x 3 x 3 and stride 1 or 2.

    By Winograd's algorithm where that is faster; its results are channels_last, whatever x is.
    """
    if suits(x, weight, stride):
        return Convolution.apply(x, weight, bias, stride)
    return F.conv2d(x, weight, bias, stride, padding=1)


def suits(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the library can do it, and with a gain."""
    if x.dim() != 4 or x.device.type != "cpu" or x.dtype is not torch.float32 or weight.dtype is not torch.float32:
        return False
    if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or not x.numel():
        return False
    outputs, inputs = weight.shape[:2]
    return inputs % LANES == 0 and outputs % LANES == 0 and -(-min(x.shape[2:]) // stride) >= LEAST_SIZE


class Convolution(torch.autograd.Function):
    """x (N x I x H x W), weight (O x I x 3 x 3) and bias (O) to N x O x ceil(H / stride) x ceil(W / stride).

    Only for what `suits`. MemoryError where there is no room for the tiles; a second derivative raises RuntimeError.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        height, width = (-(-size // stride) for size in x.shape[2:])
        return convolution(SAME if stride == 1 else HALVING, x, weight, bias, (height, width))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        kind = SAME if ctx.stride == 1 else DOUBLING
        return (
            convolution(kind, gradient, weight, None, x.shape[2:], transposed=True) if of_x else None,
            weight_gradient(x, gradient) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
        )


def convolution(
    kind: int, x: Tensor, weight: Tensor, bias: Tensor | None, size: tuple[int, int], transposed: bool = False
) -> Tensor:
    """Results of `size` of x (channels_last); `transposed`: with the kernel rotated and its channels exchanged."""
    weight = weight.detach()
    out, into, row, column = weight.stride()
    first, channels = weight.data_ptr(), weight.shape[0]
    if transposed:
        first += weight.element_size() * 2 * (row + column)
        out, into, row, column, channels = into, out, -row, -column, weight.shape[1]
    y = torch.empty((x.shape[0], channels, *size), dtype=x.dtype, memory_format=torch.channels_last)
    strides = (ctypes.c_long * 4)(out, into, row, column)
    offsets = None if bias is None else bias.detach().contiguous()
    addresses = (first, ctypes.addressof(strides), None if offsets is None else offsets.data_ptr(), y.data_ptr())
    call("winograd_convolution", kind, x, y, addresses, block_of(x, y))
    return y


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """O x I x 3 x 3 (channels_last) from x and the gradient of the convolution's results, both channels_last."""
    kind = SAME if x.shape[2:] == gradient.shape[2:] else HALVING
    weight = torch.empty((gradient.shape[1], x.shape[1], 3, 3), memory_format=torch.channels_last)
    call("winograd_weight_gradient", kind, x, gradient, (gradient.data_ptr(), weight.data_ptr()), GRADIENT_BLOCK)
    return weight


def call(name: str, kind: int, x: Tensor, y: Tensor, addresses: Sequence[int | None], block: int) -> None:
    """Call a function of winograd.c on x, on what stands at `addresses`, and with the sizes of x and y."""
    sizes = (x.shape[0], *x.shape[2:], x.shape[1], *y.shape[2:], y.shape[1])
    if getattr(library(), name)(kind, *map(ctypes.c_void_p, (x.data_ptr(), *addresses)), *sizes, block):
        raise MemoryError("a convolution found no memory for its tiles")


def block_of(x: Tensor, y: Tensor) -> int:
    """Tiles at a time of the convolution from x to y; fewer where tiles are few, so that all threads have some."""
    block = BLOCK if x.shape[1] + y.shape[1] < MANY else BLOCK_OF_MANY
    tiles = y.shape[0] * math.prod(-(-size // 4) for size in y.shape[2:])
    return max(1, min(block, -(-tiles // torch.get_num_threads())))
