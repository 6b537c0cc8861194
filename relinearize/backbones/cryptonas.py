"""CryptoNAS (NeurIPS 2020): as many weights as possible for a given number of ReLUs. Its rules, without its search.

Known second-hand are three rules; no code was seen. *Balancing*: where the map halves in both directions, channels
grow by 4, so that every layer has as many ReLUs. *Shuffling*: the ReLU of a skip connection stands behind its 1x1
convolution instead of before it, on fewer channels. *Pruning*: skip connections have no ReLU at all.

The paper's search (macro, in the manner of ENAS) chooses kernels and skips; what it found is not known. Here all
kernels are 3x3 and every layer from the third on reads the layer before it and the one before that, concatenated,
through a 1x1 convolution. Nor is it known how the paper divides a budget between depth and width: here the depth is
given, and the width is the largest that fits. That needs no search: with balanced channels every layer and every skip
has a fixed number of ReLUs per channel of the first stage, so that the count is linear in the width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relinearize.backbones.initialisation import he_initialise
from relinearize.errors import UserError, check_choice, check_number

GROWTH = 4  # of the channels, where the map has a quarter of the pixels
SKIPS = ("pruned", "shuffled", "plain")


def build_cryptonas(
    classes: int,
    image_size: int,
    channels: int = 3,
    *,
    relus: int = 50_000,
    layers: Sequence[int] = (2, 2, 2),
    skips: str = "pruned",
) -> nn.Module:
    """The widest balanced network of at most `relus` ReLUs: N x `channels` x H x W to N x `classes`.

    layers: 3x3 convolutions of each stage, a ReLU behind each; stages after the first begin by halving the map.
    skips: "pruned": without ReLUs; "shuffled": a ReLU behind the 1x1 convolution; "plain": one before it. Raises
    UserError where not even one channel fits, and for images whose side cannot be halved so often.
    """
    check_number("backbone.relus", relus, ">= 1", integer=True)
    check_choice("backbone.skips", skips, SKIPS)
    if not isinstance(layers, Sequence) or not layers or not all(type(n) is int and n >= 1 for n in layers):
        raise UserError(f"backbone.layers={layers}: must be a list of integers >= 1, a stage each, such as [2,2,2]")
    if image_size % 2 ** (len(layers) - 1):
        raise UserError(
            f"backbone.layers={list(layers)}: images of {image_size} pixels cannot be halved {len(layers) - 1} times"
        )
    per_channel = relus_per_channel(image_size, layers, skips)
    width = relus // per_channel
    if not width:
        raise UserError(
            f"backbone.relus={relus}: one channel of such a network has {per_channel} ReLUs; give that or more"
        )
    return BalancedNetwork(width, layers, classes, channels, skips)


def relus_per_channel(image_size: int, layers: Sequence[int], skips: str) -> int:
    """ReLUs of the network for each channel of its first stage."""
    pixels, stages = image_size**2, stages_of(layers)
    count = pixels * len(stages)
    for before, earlier in zip(stages[1:-1], stages[:-2], strict=True):  # of each layer from the third on
        if skips == "shuffled":
            count += pixels
        elif skips == "plain":  # the earlier map, brought to the later one's size, has its channels or fewer
            count += pixels + pixels // GROWTH ** (before - earlier)
    return count


def stages_of(layers: Sequence[int]) -> list[int]:
    """The stage of each layer."""
    return [stage for stage, count in enumerate(layers) for _ in range(count)]


class SkipConnection(nn.Module):
    """Two maps concatenated, the earlier one by a mean of its pixels where it is larger, and a 1x1 convolution."""

    def __init__(self, channels: int, earlier: int, kind: str) -> None:
        super().__init__()
        self.before = nn.ReLU() if kind == "plain" else nn.Identity()
        self.conv = nn.Conv2d(channels + earlier, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.after = nn.ReLU() if kind == "shuffled" else nn.Identity()
        self.halve = channels != earlier

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        earlier = F.avg_pool2d(earlier, 2) if self.halve else earlier
        return self.after(self.bn(self.conv(self.before(torch.cat([x, earlier], 1)))))


class BalancedNetwork(nn.Module):
    """Layers of a 3x3 convolution, BN and ReLU with `width` x 4^stage channels, and skip connections between them."""

    def __init__(self, width: int, layers: Sequence[int], classes: int, channels: int, skips: str) -> None:
        super().__init__()
        stages = stages_of(layers)
        sizes = [width * GROWTH**stage for stage in stages]
        strides = [1 + (stage > before) for before, stage in zip([0, *stages], stages, strict=False)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())
            for inside, outside, stride in zip([channels, *sizes], sizes, strides, strict=False)
        )
        self.skips = nn.ModuleList(
            SkipConnection(before, earlier, skips) for before, earlier in zip(sizes[1:-1], sizes[:-2], strict=True)
        )
        self.linear = nn.Linear(sizes[-1], classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.layers[0](x)]
        for place, layer in enumerate(self.layers[1:]):
            given = maps[-1] if place == 0 else self.skips[place - 1](maps[-1], maps[-2])
            maps.append(layer(given))
        return self.linear(torch.mean(maps[-1], dim=(2, 3)))
