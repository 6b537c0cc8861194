"""One of the two parties under CrypTen: a bundle computed on secret-shared tensors, N x C x H x W, with its costs."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from relinearize.private_inference.bundle.bundle import Bundle, Node
from relinearize.private_inference.bundle.fixed_point import nearest
from relinearize.private_inference.bundle.operations import SITES
from relinearize.private_inference.bundle.tournament import Engine, Ids, progressions
from relinearize.private_inference.engine.crypten.link import Link, LinkCommunicator, connected, crypten
from relinearize.private_inference.engine.job import CLIENT, IMAGES, KINDS, SERVER, Cost, Inferred, Job
from relinearize.private_inference.engine.layout import Gathers, normalized
from relinearize.relu.replacement import polynomial

GRACE_SECONDS = 5  # before a party that lost the other ends, so that the starter names the one that died first
Secret = Any  # crypten.CrypTensor


class Meter:
    """Adds up what happens within `adding(...)`: to `costs` by kind, to `layers` by name.

    `sent()`: bytes and messages so far.
    """

    def __init__(self, sent: Callable[[], tuple[int, int]]) -> None:
        self.sent = sent
        self.costs = dict.fromkeys(KINDS, Cost())
        self.layers: dict[str, Cost] = {}

    @contextlib.contextmanager
    def adding(self, costs: dict[str, Cost], name: str) -> Iterator[None]:
        began, (size, count) = time.monotonic(), self.sent()
        yield
        sizes, counts = self.sent()
        spent = Cost(time.monotonic() - began, sizes - size, counts - count, 1)
        costs[name] = costs.get(name, Cost()) + spent


class SecretNetwork:
    """`tensors`: the bundle's weights, secret."""

    def __init__(self, bundle: Bundle, tensors: Mapping[str, Secret]) -> None:
        self.bundle, self.tensors = bundle, tensors
        self.gathers = Gathers.of_bundle(bundle, channels_last=False)
        self.pools = bundle.pools

    def __call__(self, images: Secret, meter: Meter) -> Secret:
        def compute(node: Node, inputs: list[Secret]) -> Secret:
            with meter.adding(meter.layers, node.name):
                if node.op in SITES:
                    return masked_relu(inputs[0], self.gathers[node.name], meter)
                with meter.adding(meter.costs, KIND_OF.get(node.op, "other")):
                    return self._result(node, inputs, self.bundle.tensors(node, self.tensors))

        return self.bundle.evaluate(images, compute)

    def _result(self, node: Node, inputs: list[Secret], tensors: Mapping[str, Secret]) -> Secret:
        x = inputs[0]
        match node.op:
            case "normalize":  # the client did it before
                return x
            case "conv2d":
                window = {name: tuple(value) if name != "groups" else value for name, value in node.attributes.items()}
                convolved = x.conv2d(tensors["weight"], **window)
                return convolved + per_channel(tensors["bias"], convolved)
            case "linear":
                return x.matmul(tensors["weight"].t()) + tensors["bias"]
            case "affine":
                return x * per_channel(tensors["scale"], x) + per_channel(tensors["shift"], x)
            case "add":
                return x + inputs[1]
            case "concat":
                return x.cat(inputs, dim=1)
            case "max_pool":
                return self.pools[node.name].play(x, (2, 3), ENGINE)
            case "global_avg_pool":
                total = x.flatten(start_dim=2).sum(-1).reshape(*x.shape[:2], 1, 1)
                return total.div(math.prod(x.shape[2:]))
            case "avg_pool":
                kernel, stride, padding = (tuple(node.attributes[name]) for name in ("kernel", "stride", "padding"))
                return x.avg_pool2d(kernel, stride=stride, padding=padding)
            case "flatten":
                return x.reshape(x.shape[0], -1)
        raise ValueError(f"no secret {node.op}")


# As SPU's are counted: means belong to the linear layers.
KIND_OF = dict.fromkeys(("conv2d", "linear", "affine", "avg_pool", "global_avg_pool"), "linear") | {"max_pool": "pool"}


def cut(x: Secret, axis: int, ids: Ids) -> Secret:
    parts = [x[(slice(None),) * axis + (one,)] for one in progressions(ids)]
    return parts[0] if len(parts) == 1 else parts[0].cat(parts, dim=axis)


ENGINE = Engine(
    take=cut, maximum=lambda x, y: y + (x - y).relu(), concatenate=lambda x, y, axis: x.cat([x, y], dim=axis)
)


def per_channel(values: Secret, x: Secret) -> Secret:
    """One value for each channel of `x`, N x C x H x W or N x C."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


def masked_relu(x: Secret, gathers: Gathers, meter: Meter) -> Secret:
    """Comparisons for the kept positions alone, of all images at once, and polynomials for the others; none of none."""
    if gathers.kept.size == gathers.selected.size:
        with meter.adding(meter.costs, "relu"):
            return x.relu()
    coefficients = torch.from_numpy(gathers.coefficients)
    if gathers.replaced.size == gathers.selected.size:
        with meter.adding(meter.costs, "relu"):
            return polynomial(x.flatten(start_dim=1), coefficients).reshape(x.shape)
    values = [
        (gathers.kept, lambda picked: picked.relu()),
        (gathers.replaced, lambda picked: polynomial(picked, coefficients)),
        (gathers.zeros, lambda picked: picked - picked),
    ]
    values = [(torch.from_numpy(places).long(), compute) for places, compute in values if places.size]
    if not values:
        return x
    flat = x.clone().flatten(start_dim=1)
    for places, compute in values:
        with meter.adding(meter.costs, "gather"):
            picked = flat[:, places]
        with meter.adding(meter.costs, "relu"):
            computed = compute(picked)
        with meter.adding(meter.costs, "gather"):
            flat[:, places] = computed
    return flat.reshape(x.shape)


class CryptenParty:
    """Set up once, then `infer` per batch, which both parties must do together."""

    def __init__(self, job: Job, rank: int, bundle: Bundle) -> None:
        self.job, self.rank, self.bundle = job, rank, bundle
        self.link = Link(connected(job, rank))
        LinkCommunicator(self.link, rank).serve()
        crypten.init()
        crypten.cfg.mpc.provider = job.protocol
        crypten.cfg.encoder.precision_bits = job.fraction_bits
        own = self.bundle.weights or {}
        names = [name for name in job.inputs if name != IMAGES]
        self.network = SecretNetwork(self.bundle, {name: self._secret(name, SERVER, own.get(name)) for name in names})

    def _secret(self, name: str, owner: int, value: np.ndarray | None) -> Any:
        """A shared tensor of which `owner` knows the value; the other party only knows the shape. Sends nothing."""
        known = torch.zeros(self.job.inputs[name]) if value is None else torch.from_numpy(np.array(value))
        return crypten.cryptensor(known, src=owner)

    def infer(self, indices: list[int]) -> Inferred:
        images = self.bundle.reference.images[indices]
        pixels = nearest(normalized(self.bundle, images), self.job.fraction_bits) if self.rank == CLIENT else None
        with crypten.no_grad():
            images = self._secret(IMAGES, CLIENT, pixels)
            crypten.communicator.get().barrier()
            meter = Meter(lambda: (self.link.bytes, self.link.messages))
            began, computed = time.monotonic(), time.process_time()
            try:
                secret = self.network(images, meter)
                with meter.adding(meter.costs, "other"):
                    logits = secret.get_plain_text(dst=CLIENT)
            except ConnectionError:
                time.sleep(GRACE_SECONDS)
                raise
            seconds, cpu_seconds = time.monotonic() - began, time.process_time() - computed
        known = None if logits is None else logits.double().tolist()
        return Inferred(seconds, cpu_seconds, meter.costs, known, meter.layers)
