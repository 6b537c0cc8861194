"""Bundles with random weights made without torch, which the engine's environment lacks."""

from dataclasses import replace

import numpy as np

from relinearize.private_inference.bundle.bundle import INPUT, About, Bundle, Node, Reference, run_bundle, write_bundle
from relinearize.private_inference.bundle.operations import SITES, result_shape
from relinearize.relu.replacement import REPLACEMENTS

SIZE = (3, 8, 8)


class Builder:
    """Adds nodes one behind the other; shapes follow from the operations."""

    def __init__(self, size=SIZE, seed=0):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights, self.shapes, self.size = [], {}, {INPUT: size}, size
        self.last = INPUT

    def add(self, name, op, *inputs, tensors=(), **attributes):
        inputs = inputs or (self.last,)
        self.weights |= {f"{name}.{role}": value.astype(np.float32) for role, value in dict(tensors).items()}
        sources = [self.shapes[one] for one in inputs]
        shape = sources[0] if op in SITES else result_shape(op, sources, attributes | dict(tensors))
        self.nodes.append(Node(name, op, tuple(inputs), shape, attributes))
        self.shapes[name], self.last = shape, name
        return name

    def conv(self, name, out, kernel=3, stride=1, padding=None, dilation=1, groups=1, source=None):
        channels = self.shapes[source or self.last][0]
        fan = channels // groups * kernel * kernel
        tensors = {
            "weight": self.random.normal(0, fan**-0.5, (out, channels // groups, kernel, kernel)),
            "bias": self.random.normal(0, 0.1, out),
        }
        padding = kernel // 2 if padding is None else padding
        pairs = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [dilation] * 2}
        return self.add(name, "conv2d", *([source] if source else []), tensors=tensors, groups=groups, **pairs)

    def linear(self, name, out):
        (features,) = self.shapes[self.last]
        weight = self.random.normal(0, features**-0.5, (out, features))
        return self.add(name, "linear", tensors={"weight": weight, "bias": self.random.normal(0, 0.1, out)})

    def bundle(self, kept, images=3, labels=True, replacement="identity"):
        """`kept`: site -> share of its positions. replacement: what stands at the others."""
        sites = {node.name: node.shape for node in self.nodes if node.op in SITES}
        masks = {name: self.random.random(shape) < kept[name] for name, shape in sites.items()}
        coefficients = {}
        if replacement != "identity":
            self.nodes = [replace(node, op="replaced_relu") if node.op in SITES else node for node in self.nodes]
            coefficients = {name: self.coefficients(replacement, shape) for name, shape in sites.items()}
        pixels = self.random.random((images, *self.size), dtype=np.float32)
        empty = Reference(pixels, np.zeros((images, *self.nodes[-1].shape), np.float32))
        about = About(name="random", backbone="tiny")
        bundle = Bundle(self.size, tuple(self.nodes), masks, self.weights, empty, about, coefficients)
        logits = run_bundle(bundle, pixels)
        reference = Reference(pixels, logits, logits.argmax(1) if labels else None)
        return replace(bundle, reference=reference)

    def coefficients(self, replacement, shape):
        """No more curvature than keeps a few sites in a row from growing."""
        if replacement == "zero":
            return (self.random.random((1, *shape)) < 0.5).astype(np.float32)
        number = REPLACEMENTS.index(replacement)
        sides = (number, shape[0], *[1] * (len(shape) - 1))
        return (
            self.random.random(sides) * np.array([0.7, 0.3, 0.1, 0.01])[:number].reshape(-1, *[1] * len(shape))
        ).astype(np.float32)


def residual_network(kept, **settings):
    """Five sites; a block with identity and one with a strided shortcut, as in ResNets."""
    build = Builder()
    build.add("normalize", "normalize", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    build.conv("conv1", 8)
    start = build.add("relu1", "masked_relu")
    build.conv("block1.conv1", 8)
    build.add("block1.relu1", "masked_relu")
    build.add("add1", "add", build.conv("block1.conv2", 8), start)
    start = build.add("block1.relu2", "masked_relu")
    build.conv("block2.conv1", 16, stride=2)
    build.add("block2.relu1", "masked_relu")
    long = build.conv("block2.conv2", 16)
    build.add("add2", "add", long, build.conv("block2.shortcut", 16, 1, stride=2, source=start))
    build.add("block2.relu2", "masked_relu")
    build.add("pool", "global_avg_pool")
    build.add("flatten", "flatten")
    build.linear("linear", 5)
    names = ("relu1", "block1.relu1", "block1.relu2", "block2.relu1", "block2.relu2")
    return build.bundle(dict(zip(names, kept, strict=True)), **settings)


def all_operations():
    """What residual networks lack: affines, groups, dilation, concatenation, poolings, maps that are flattened."""
    build = Builder()
    left = build.conv("left", 4, stride=2, padding=0)
    right = build.conv("right", 4, kernel=3, stride=2, padding=1, dilation=2, source=INPUT)
    build.add("narrow", "avg_pool", right, kernel=[2, 2], stride=[1, 1], padding=[1, 1])
    build.add("pooled", "avg_pool", "narrow", kernel=[2, 2], stride=[1, 1], padding=[0, 0])
    build.add("joined", "concat", left, build.last)
    random = build.random
    build.add("affine", "affine", tensors={"scale": random.normal(1, 0.3, 8), "shift": random.normal(0, 0.1, 8)})
    build.add("relu", "masked_relu")
    build.conv("grouped", 8, groups=4)
    build.add("flatten", "flatten")
    build.linear("hidden", 6)
    build.add("scaled", "affine", tensors={"scale": random.normal(1, 0.3, 6), "shift": random.normal(0, 0.1, 6)})
    build.linear("linear", 5)
    return build.bundle({"relu": 0.5})


def pooled_network(images=3):
    """Max-pools of 2 x 2 on an odd map, of 3 x 3 with stride 2 and padding, overlapping ones of 3 x 2 with stride 1."""
    build = Builder((2, 9, 11))
    build.conv("conv1", 4)
    build.add("relu1", "masked_relu")
    build.add("stem", "max_pool", kernel=[3, 3], stride=[2, 2], padding=[1, 1])
    build.conv("conv2", 6)
    build.add("overlapping", "max_pool", kernel=[3, 2], stride=[1, 1], padding=[1, 0])
    build.add("relu2", "masked_relu")
    build.add("halved", "max_pool", kernel=[2, 2], stride=[2, 2], padding=[0, 0])
    build.add("mean", "avg_pool", kernel=[2, 2], stride=[1, 1], padding=[0, 0])
    build.add("flatten", "flatten")
    build.linear("linear", 5)
    return build.bundle({"relu1": 0.5, "relu2": 0}, images)


def written(bundle, folder):
    write_bundle(bundle, folder)
    return folder
