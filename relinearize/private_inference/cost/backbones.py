"""The linear work of the project's own backbones from name and sizes, as records have them: without the network.

`bundle_workload` counts the same in an exported network; a test compares the two for every backbone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from relinearize.private_inference.cost.workload import LinearWork, affine_work, max_pool_work, mean_work

# Usual channels of the first convolution, those of each stage in units of these, blocks of each stage.
RESNETS = {
    "resnet8": (16, (1, 2, 4), (1, 1, 1)),
    "resnet18": (64, (1, 2, 4, 8), (2, 2, 2, 2)),
    "resnet34": (64, (1, 2, 4, 8), (3, 4, 6, 3)),
    "wrn22_8": (16, (8, 16, 32), (3, 3, 3)),
}
AVERAGE = "_average"  # behind the name of a network with average pools
VGG16 = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # channels in units of the width, convolutions of each block


def recorded_name(backbone: Mapping[str, Any]) -> str:
    """Of a backbone's settings, for folders and records: with average pools it is another network."""
    return backbone["name"] + (AVERAGE if backbone.get("pool") == "average" else "")


def backbone_work(name: str, width: int | None, images: Any) -> LinearWork | None:
    """The same for all masks and both conventions; None for a backbone that is not the project's own.

    name: as recorded.
    width: channels of the first stage (base channels of wrn22_8), None for the papers'.
    images: has their `classes`, `image_size` and `channels`: a Source, or the dataset of a record.
    """
    size, channels = images.image_size, images.channels
    if name in RESNETS:
        usual, factors, blocks = RESNETS[name]
        layers, features = _resnet(width or usual, factors, blocks, channels, size, norms=name == "wrn22_8")
    elif name in ("vgg16_bn", f"vgg16_bn{AVERAGE}"):
        layers, features = _vgg(width or 64, channels, size, name.endswith(AVERAGE))
    else:
        return None
    layers.append(LinearWork.of_products(features, 1, features, images.classes))
    return LinearWork.total(layers)


def _conv(inside: int, outside: int, kernel: int, size: int, stride: int = 1) -> LinearWork:
    """Of maps of size x size, padded so that the stride alone makes them smaller."""
    return LinearWork.of_convolution(inside, inside * size**2, kernel**2, outside, math.ceil(size / stride) ** 2)


def _resnet(
    base: int, factors: Sequence[int], blocks: Sequence[int], channels: int, size: int, norms: bool
) -> tuple[list[LinearWork], int]:
    """Blocks of two 3x3 convolutions, and a 1x1 one as shortcut where the shape changes.

    norms: a batch norm behind an addition, at the beginning of every block but the first and at the end, stays a layer.
    """
    layers, inside = [_conv(channels, base, 3, size)], base
    for stage, (factor, count) in enumerate(zip(factors, blocks, strict=True)):
        outside = factor * base
        for number in range(count):
            stride = 2 if stage and not number else 1
            layers += [_conv(inside, outside, 3, size, stride), _conv(outside, outside, 3, math.ceil(size / stride))]
            if stride != 1 or inside != outside:
                layers.append(_conv(inside, outside, 1, size, stride))
            inside, size = outside, math.ceil(size / stride)
            if norms:
                layers.append(affine_work(inside, size**2))  # of the next block, or the last one
    return [*layers, mean_work(inside, size**2)], inside


def _vgg(width: int, channels: int, size: int, average: bool) -> tuple[list[LinearWork], int]:
    """Three pools, four from 64 pixels on; see backbones/vgg.py."""
    layers, inside, pooled = [], channels, 4 if size >= 64 else 3
    for block, (factor, count) in enumerate(VGG16, start=1):
        for _ in range(count):
            layers.append(_conv(inside, factor * width, 3, size))
            inside = factor * width
        if block <= pooled:
            window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}
            means = mean_work(inside * (size // 2) ** 2, 2 * 2)
            layers.append(means if average else max_pool_work((inside, size, size), window))
            size //= 2
    return [*layers, mean_work(inside, size**2)], inside
