"""The operations of a bundle's graph: what each takes and what it computes, with NumPy. No torch.

All values are N x C x H x W or N x F; shapes elsewhere are without N. H and W are given as pairs, height first. The
computations are the yardstick for every engine: slow, and written to be read. They raise ValueError where their
arguments do not fit together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from relinearize.relu.replacement import check_coefficients, polynomial

Shape = tuple[int, ...]
SITES = ("masked_relu", "replaced_relu")  # the operations with a mask


@dataclass(frozen=True)
class Operation:
    """One kind of node.

    compute: from the inputs, and by name the tensors and attributes (of a site: mask, coefficients), to the result.
    inputs: how many, None for two or more. tensors: what it reads from the weights, node x's `weight` under `x.weight`.
    attributes: lists of floats, one per channel (mean, std), pairs of integers (of windows), an integer (groups).
    """

    compute: Callable[..., np.ndarray]
    inputs: int | None = 1
    tensors: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


def result_shape(op: str, inputs: Sequence[Shape], arguments: Mapping[str, Any]) -> Shape:
    """Shape of the result, without batch: that of no image at all. ValueError where `op` cannot be computed."""
    return OPERATIONS[op].compute(*(np.empty((0, *shape)) for shape in inputs), **arguments).shape[1:]


def _per_channel(values: Any, x: np.ndarray) -> np.ndarray:
    if np.shape(values) != x.shape[1:2]:
        raise ValueError(f"{np.shape(values)} values on {x.shape[1:2]} channels")
    return np.asarray(values, x.dtype).reshape(-1, *[1] * (x.ndim - 2))


def _windows(x: np.ndarray, window: Any, stride: Any) -> np.ndarray:
    """N x C x H x W -> N x C x H' x W' x h x w."""
    if x.ndim != 4:
        raise ValueError(f"needs C x H x W, not {x.shape[1:]}")
    return sliding_window_view(x, tuple(window), axis=(2, 3))[:, :, :: stride[0], :: stride[1]]


def _padded(x: np.ndarray, padding: Any, value: float = 0) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), *((side, side) for side in padding)), constant_values=value)


def _normalize(x: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    if min(std) <= 0:
        raise ValueError(f"std {std} must be above 0")
    return (x - _per_channel(mean, x)) / _per_channel(std, x)


def _conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: Any, padding: Any, dilation: Any, groups: int
) -> np.ndarray:
    """Cross-correlation as in torch; weight O x C/groups x h x w, bias O; padding on both sides, with zeros."""
    if weight.ndim != 4 or bias.shape != weight.shape[:1]:
        raise ValueError(f"weight {weight.shape}, bias {bias.shape}")
    window = [d * (length - 1) + 1 for length, d in zip(weight.shape[2:], dilation, strict=True)]
    windows = _windows(_padded(x, padding), window, stride)[..., :: dilation[0], :: dilation[1]]
    parts = [
        np.tensordot(part, kernel, axes=((1, 4, 5), (1, 2, 3)))
        for part, kernel in zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    ]
    return np.moveaxis(np.concatenate(parts, -1) + bias, -1, 1)


def _linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    if x.ndim != 2 or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ValueError(f"weight {weight.shape}, bias {bias.shape} on {x.shape[1:]}")
    return x @ weight.T + bias


def _add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.shape != y.shape:
        raise ValueError(f"inputs of different shapes {x.shape[1:]} and {y.shape[1:]}")
    return x + y


def _masked_relu(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if mask.shape != x.shape[1:]:
        raise ValueError(f"mask {mask.shape} on {x.shape[1:]}")
    return np.where(mask, np.maximum(x, 0), x)


def _replaced_relu(x: np.ndarray, mask: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    check_coefficients(coefficients.shape, mask.shape)
    if len(coefficients) == 1 and not np.isin(coefficients, (0, 1)).all():
        raise ValueError("slopes of single positions that are neither 0 nor 1")
    return np.where(mask, _masked_relu(x, mask), polynomial(x, coefficients.astype(x.dtype)))


def _pool(x: np.ndarray, kernel: Any, stride: Any, padding: Any, value: float = 0) -> np.ndarray:
    if any(2 * side > length for side, length in zip(padding, kernel, strict=True)):
        raise ValueError(f"padding {padding} is more than half of the kernel {kernel}")
    return _windows(_padded(x, padding, value), kernel, stride)


_WINDOW = ("kernel", "stride", "padding")

OPERATIONS: dict[str, Operation] = {
    "normalize": Operation(_normalize, attributes=("mean", "std")),  # public: the owner of the image does it in clear
    "conv2d": Operation(_conv2d, tensors=("weight", "bias"), attributes=("stride", "padding", "dilation", "groups")),
    "linear": Operation(_linear, tensors=("weight", "bias")),
    "affine": Operation(  # a batch norm that no layer could take in
        lambda x, scale, shift: x * _per_channel(scale, x) + _per_channel(shift, x), tensors=("scale", "shift")
    ),
    "add": Operation(_add, inputs=2),
    "concat": Operation(lambda *inputs: np.concatenate(inputs, 1), inputs=None),
    "masked_relu": Operation(_masked_relu),  # its name is the site's
    "replaced_relu": Operation(_replaced_relu),
    "avg_pool": Operation(  # padded zeros count, as in torch
        lambda x, kernel, stride, padding: _pool(x, kernel, stride, padding).mean((4, 5)), attributes=_WINDOW
    ),
    "max_pool": Operation(
        lambda x, kernel, stride, padding: _pool(x, kernel, stride, padding, -np.inf).max((4, 5)), attributes=_WINDOW
    ),
    "global_avg_pool": Operation(lambda x: x.mean((2, 3), keepdims=True)),
    # channels outermost, whatever the engine's layout
    "flatten": Operation(lambda x: x.reshape(len(x), int(np.prod(x.shape[1:])))),
}
