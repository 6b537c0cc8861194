"""The operations of a bundle's graph: what each takes, which tensors it has, what shape it gives. No torch.

All values are float32, N x C x H x W or N x F; shapes here are without N. H and W are given as pairs, height first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One kind of node.

    inputs: how many, None for two or more. tensors: what it reads from the weights, node x's `weight` under `x.weight`.
    attributes: name -> kind, "pair" (two whole numbers), "count" (one), "numbers" (one per channel).
    shape: (shapes of the inputs, attributes, shapes of the tensors) -> shape of the result; ValueError if they do not
    go together.
    """

    inputs: int | None
    tensors: tuple[str, ...]
    attributes: Mapping[str, str]
    shape: Callable[[Sequence[Shape], Mapping[str, Any], Mapping[str, Shape]], Shape]
    meaning: str


def _map(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"needs C x H x W, not {shape}")
    return shape


def _sides(shape: Shape, window: Sequence[int], attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width after a window went over a map, rounded down."""
    sides = tuple(
        (size + 2 * padding - length) // stride + 1
        for size, length, stride, padding in zip(
            shape[1:], window, attributes["stride"], attributes["padding"], strict=True
        )
    )
    if min(sides) < 1:
        raise ValueError(f"a window of {tuple(window)} does not fit {shape}")
    return sides


def _conv2d(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    channels, *_ = shape = _map(inputs[0])
    out, per_group, *kernel = tensors["weight"]
    groups = attributes["groups"]
    if len(kernel) != 2 or per_group * groups != channels or out % groups or tensors["bias"] != (out,):
        raise ValueError(f"weight {tensors['weight']}, bias {tensors['bias']}, {groups} groups on {shape}")
    window = [dilation * (length - 1) + 1 for length, dilation in zip(kernel, attributes["dilation"], strict=True)]
    return (out, *_sides(shape, window, attributes))


def _linear(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    out, features = tensors["weight"]
    if inputs[0] != (features,) or tensors["bias"] != (out,):
        raise ValueError(f"weight {tensors['weight']}, bias {tensors['bias']} on {inputs[0]}")
    return (out,)


def _affine(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    if tensors["scale"] != inputs[0][:1] or tensors["shift"] != inputs[0][:1]:
        raise ValueError(f"scale {tensors['scale']}, shift {tensors['shift']} on {inputs[0]}")
    return inputs[0]


def _normalize(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    if not len(attributes["mean"]) == len(attributes["std"]) == inputs[0][0] or min(attributes["std"]) <= 0:
        raise ValueError(f"mean and std of {inputs[0][0]} channels")
    return inputs[0]


def _same(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    if len(set(inputs)) != 1:
        raise ValueError(f"inputs of different shapes {list(inputs)}")
    return inputs[0]


def _concat(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    if len({shape[1:] for shape in inputs}) != 1:
        raise ValueError(f"inputs {list(inputs)} differ in more than their channels")
    return (sum(shape[0] for shape in inputs), *inputs[0][1:])


def _pool(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    shape = _map(inputs[0])
    if any(2 * padding > length for padding, length in zip(attributes["padding"], attributes["kernel"], strict=True)):
        raise ValueError(f"padding {attributes['padding']} is more than half of the kernel {attributes['kernel']}")
    return (shape[0], *_sides(shape, attributes["kernel"], attributes))


def _global_pool(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    return (_map(inputs[0])[0], 1, 1)


def _flatten(inputs: Sequence[Shape], attributes: Mapping[str, Any], tensors: Mapping[str, Shape]) -> Shape:
    return (math.prod(inputs[0]),)


_WINDOW = {"kernel": "pair", "stride": "pair", "padding": "pair"}

OPERATIONS: dict[str, Operation] = {
    "normalize": Operation(
        1, (), {"mean": "numbers", "std": "numbers"}, _normalize,
        "(x - mean) / std per channel, public: the owner of the image does it in the clear",
    ),
    "conv2d": Operation(
        1, ("weight", "bias"), {"stride": "pair", "padding": "pair", "dilation": "pair", "groups": "count"}, _conv2d,
        "cross-correlation as in torch; weight O x C/groups x h x w, bias O; padding on both sides, with zeros",
    ),
    "linear": Operation(1, ("weight", "bias"), {}, _linear, "x @ weight.T + bias; weight O x F, bias O"),
    "affine": Operation(
        1, ("scale", "shift"), {}, _affine, "scale * x + shift per channel: a batch norm that no layer could take in"
    ),
    "add": Operation(2, (), {}, _same, "x + y, same shapes"),
    "concat": Operation(None, (), {}, _concat, "along the channels"),
    "masked_relu": Operation(
        1, (), {}, _same, "max(x, 0) where the mask of this name is true, x elsewhere; the name is the site's"
    ),
    "avg_pool": Operation(1, (), _WINDOW, _pool, "mean over the window; padded zeros count, as in torch"),
    "max_pool": Operation(1, (), _WINDOW, _pool, "maximum over the window, what is padded left out: comparisons"),
    "global_avg_pool": Operation(1, (), {}, _global_pool, "mean of each channel: C x H x W to C x 1 x 1"),
    "flatten": Operation(1, (), {}, _flatten, "C x H x W to C*H*W, channels outermost whatever the engine's layout"),
}  # fmt: skip
