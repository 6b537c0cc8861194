"""What a bundle computes, with NumPy: the yardstick for every engine. Slow, and written to be read."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from relinearize.private_inference.bundle.bundle import INPUT, Bundle, Node

Arrays = Mapping[str, np.ndarray]


def run_bundle(
    bundle: Bundle, images: np.ndarray, watch: Callable[[Node, np.ndarray], Any] | None = None
) -> np.ndarray:
    """Logits (N x classes) of `images` (N x C x H x W, pixels of 0 to 1), in the dtype of `images`.

    `watch` is shown every node with its result, to find where another implementation parts.
    """
    values = {INPUT: images}
    last_use = {name: node.name for node in bundle.nodes for name in node.inputs}
    for node in bundle.nodes:
        inputs = [values[name] for name in node.inputs]
        tensors = {role: tensor.astype(images.dtype) for role, tensor in bundle.tensors(node).items()}
        if node.op == "masked_relu":
            result = np.where(bundle.masks[node.name], np.maximum(inputs[0], 0), inputs[0])
        else:
            result = _FUNCTIONS[node.op](*inputs, **tensors, **node.attributes)
        if watch is not None:
            watch(node, result)
        values[node.name] = result
        for name in set(node.inputs):
            if last_use[name] == node.name:
                del values[name]
    return values[bundle.output]


def _per_channel(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(values, x.dtype).reshape(-1, *[1] * (x.ndim - 2))


def _windows(x: np.ndarray, window: Any, stride: Any) -> np.ndarray:
    """N x C x H x W -> N x C x H' x W' x h x w."""
    return sliding_window_view(x, tuple(window), axis=(2, 3))[:, :, :: stride[0], :: stride[1]]


def _padded(x: np.ndarray, padding: Any, value: float = 0) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), *((side, side) for side in padding)), constant_values=value)


def _normalize(x: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    return (x - _per_channel(mean, x)) / _per_channel(std, x)


def _conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: Any, padding: Any, dilation: Any, groups: int
) -> np.ndarray:
    window = [d * (length - 1) + 1 for length, d in zip(weight.shape[2:], dilation, strict=True)]
    windows = _windows(_padded(x, padding), window, stride)[..., :: dilation[0], :: dilation[1]]
    parts = [
        np.tensordot(part, kernel, axes=((1, 4, 5), (1, 2, 3)))
        for part, kernel in zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    ]
    return np.moveaxis(np.concatenate(parts, -1) + bias, -1, 1)


def _avg_pool(x: np.ndarray, kernel: Any, stride: Any, padding: Any) -> np.ndarray:
    return _windows(_padded(x, padding), kernel, stride).mean((4, 5))


def _max_pool(x: np.ndarray, kernel: Any, stride: Any, padding: Any) -> np.ndarray:
    return _windows(_padded(x, padding, -np.inf), kernel, stride).max((4, 5))


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "normalize": _normalize,
    "conv2d": _conv2d,
    "linear": lambda x, weight, bias: x @ weight.T + bias,
    "affine": lambda x, scale, shift: x * _per_channel(scale, x) + _per_channel(shift, x),
    "add": np.add,
    "concat": lambda *inputs: np.concatenate(inputs, 1),
    "avg_pool": _avg_pool,
    "max_pool": _max_pool,
    "global_avg_pool": lambda x: x.mean((2, 3), keepdims=True),
    "flatten": lambda x: x.reshape(len(x), -1),
}
