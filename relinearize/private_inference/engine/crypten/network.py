"""A bundle computed on CrypTen's secret-shared tensors, N x C x H x W, what each kind of operation costs watched."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from relinearize.private_inference.bundle.bundle import Bundle, Node
from relinearize.private_inference.engine.job import KINDS, Cost
from relinearize.private_inference.engine.layout import by_node, pool_size

Secret = Any  # crypten.CrypTensor


class Meter:
    """Adds up what happens within `kind(...)`. `sent()`: bytes and messages so far."""

    def __init__(self, sent: Callable[[], tuple[int, int]]) -> None:
        self.sent = sent
        self.costs = dict.fromkeys(KINDS, Cost())

    @contextlib.contextmanager
    def kind(self, name: str) -> Iterator[None]:
        began, (size, count) = time.monotonic(), self.sent()
        yield
        sizes, counts = self.sent()
        self.costs[name] += Cost(time.monotonic() - began, sizes - size, counts - count, 1)


class SecretNetwork:
    """`tensors`: what `layout.plain_tensors` names, secret."""

    def __init__(self, bundle: Bundle, tensors: Mapping[str, Secret]) -> None:
        self.bundle = bundle
        self.tensors = by_node(tensors)
        self.kept = {name: torch.from_numpy(np.flatnonzero(mask)) for name, mask in bundle.masks.items()}

    def __call__(self, image: Secret, meter: Meter) -> Secret:
        def compute(node: Node, inputs: list[Secret]) -> Secret:
            if node.op == "masked_relu":
                return masked_relu(inputs[0], self.kept[node.name], meter)
            with meter.kind(KIND_OF.get(node.op, "other")):
                return self._result(node, inputs, self.tensors.get(node.name, {}))

        return self.bundle.evaluate(image, compute)

    def _result(self, node: Node, inputs: list[Secret], tensors: Mapping[str, Secret]) -> Secret:
        x = inputs[0]
        match node.op:
            case "normalize":  # the client did it before
                return x
            case "conv2d":
                window = {name: tuple(value) if name != "groups" else value for name, value in node.attributes.items()}
                return x.conv2d(tensors["weight"], **window) + per_channel(tensors["bias"])
            case "linear":
                return x.matmul(tensors["weight"].t()) + tensors["bias"]
            case "affine":
                return x * per_channel(tensors["scale"]) + per_channel(tensors["shift"])
            case "add":
                return x + inputs[1]
            case "concat":
                return x.cat(inputs, dim=1)
            case "global_avg_pool":
                total = x.flatten(start_dim=2).sum(-1).reshape(*x.shape[:2], 1, 1)
                return total.div(pool_size(self.bundle, node))
            case "avg_pool":
                kernel, stride, padding = (tuple(node.attributes[name]) for name in ("kernel", "stride", "padding"))
                return x.avg_pool2d(kernel, stride=stride, padding=padding)
            case "flatten":
                return x.reshape(x.shape[0], -1)
        raise ValueError(f"no secret {node.op}")


# As SPU's are counted: means belong to the linear layers.
KIND_OF = dict.fromkeys(("conv2d", "linear", "affine", "avg_pool", "global_avg_pool"), "linear")


def per_channel(values: Secret) -> Secret:
    return values.reshape(1, -1, 1, 1)


def masked_relu(x: Secret, kept: torch.Tensor, meter: Meter) -> Secret:
    """Comparisons for the kept positions alone, all of them at once; none where none is kept."""
    if not kept.numel():
        return x
    if kept.numel() == x.nelement():
        with meter.kind("relu"):
            return x.relu()
    with meter.kind("gather"):
        flat = x.clone().reshape(-1)
        picked = flat[kept]
    with meter.kind("relu"):
        rectified = picked.relu()
    with meter.kind("gather"):
        flat[kept] = rectified
        return flat.reshape(x.shape)
