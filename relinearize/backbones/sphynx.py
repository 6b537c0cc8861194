"""Sphynx (2021): networks of two searched cells with one ReLU each, for a given number of ReLUs.

The cells are those of the released code. A cell reads the two cells before it, s0 and s1, each through a 1x1
convolution to C channels; each of its four nodes is the sum of two operations on s0, s1 and earlier nodes; the nodes
are concatenated, and a 1x1 convolution to C channels and the cell's only ReLU follow. A reduction halves the map in
both directions and has four times the channels, so every cell has as many ReLUs: C0 x H x W of the image.

Not known, and chosen here: which operations the released drop path leaves out (here all but the identity, as in DARTS),
and where the two largest networks for 64 pixels reduce (here at 0 and 5, as the others of ten cells).
"""

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from relinearize.backbones.initialisation import he_initialise
from relinearize.backbones.shortcut import every_pixel
from relinearize.errors import UserError, check_number

# Per node: (operation, its input) twice. Inputs 0 and 1 are s0 and s1, then come the nodes.
Cell = tuple[tuple[tuple[str, int], tuple[str, int]], ...]
NORMAL: Cell = (
    (("skip", 0), ("skip", 1)),
    (("skip", 2), ("dil5", 0)),
    (("conv5", 2), ("dil3", 0)),
    (("conv3", 1), ("skip", 2)),
)
REDUCTION: Cell = (
    (("conv3", 0), ("conv3", 1)),
    (("skip", 0), ("conv3", 2)),
    (("dil3", 0), ("skip", 2)),
    (("conv5", 0), ("skip", 4)),
)
# (C0, cells, the cells that reduce) of the published networks, by the side of their images.
OF_32 = ((5, 5, (0, 1)), (5, 6, (0, 1)), (5, 8, (1, 3)), (5, 10, (0, 5)), (7, 10, (0, 5)), (10, 10, (0, 5)))
PUBLISHED = {32: OF_32, 64: (*OF_32, (12, 10, (0, 5)), (15, 10, (0, 5)))}


def build_sphynx(
    classes: int, image_size: int, channels: int = 3, *, relus: int | None = None, drop_path: float = 0.2
) -> nn.Module:
    """The published network with exactly `relus` ReLUs: N x `channels` x H x W to N x `classes`.

    relus: at 32 pixels 25,600, 30,720, 40,960, 51,200, 71,680 or 102,400; at 64 these four times, 491,520 or 614,400.
    None: the 51,200 of 32 pixels, the 204,800 of 64. drop_path: share of the images of a batch for which an operation
    is left out in training. Raises UserError for other images and counts.
    """
    if image_size not in PUBLISHED:
        raise UserError(f"backbone=sphynx has cells for images of 32 and 64 pixels; these have {image_size}")
    check_number("backbone.drop_path", drop_path, ">= 0", "< 1")
    known = {width * cells * image_size**2: (width, cells, at) for width, cells, at in PUBLISHED[image_size]}
    relus = 50 * image_size**2 if relus is None else relus
    if relus not in known:
        counts = ", ".join(map(str, known))
        raise UserError(f"backbone.relus={relus}: no published network for {image_size} pixels; give one of {counts}")
    return Sphynx(*known[relus], classes, channels, drop_path)


def conv_norm(inside: int, outside: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inside, outside, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class FactorizedReduce(nn.Module):
    """To half the map: two 1x1 convolutions with stride 2, one of them a pixel further in both directions, then BN."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        # Picks the odd pixels: as an operation that bundles and engines know. It does not learn.
        self.odd = nn.Conv2d(inside, inside, 2, 2, groups=inside, bias=False).requires_grad_(False)
        self.conv1 = nn.Conv2d(inside, outside // 2, 1, bias=False)
        self.conv2 = nn.Conv2d(inside, outside - outside // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outside)

    def initialise(self) -> None:
        self.odd.weight.zero_()
        self.odd.weight[:, :, 1, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat([self.conv1(every_pixel(x, 2)), self.conv2(self.odd(x))], 1))


def operation(kind: str, channels: int, stride: int, drop_path: float) -> nn.Module:
    """conv: two convolutions, the first with the stride; dil: one of dilation 2; skip: identity, or half the map."""
    if kind == "skip":
        if stride == 1:
            return nn.Identity()
        layers = [FactorizedReduce(channels, channels)]
    elif kind.startswith("conv"):
        kernel = int(kind[-1])
        layers = [conv_norm(channels, channels, kernel, stride), conv_norm(channels, channels, kernel)]
    else:
        layers = [conv_norm(channels, channels, int(kind[-1]), stride, dilation=2)]
    return nn.Sequential(*layers, StochasticDepth(drop_path, "row") if drop_path else nn.Identity())


class SphynxCell(nn.Module):
    """See the module's docstring. inside: channels of s0 and s1; halve: s0 has twice the side of s1's map."""

    def __init__(self, inside: tuple[int, int], channels: int, reduction: bool, halve: bool, drop_path: float) -> None:
        super().__init__()
        self.plan = REDUCTION if reduction else NORMAL
        self.preprocess0 = FactorizedReduce(inside[0], channels) if halve else conv_norm(inside[0], channels, 1)
        self.preprocess1 = conv_norm(inside[1], channels, 1)
        self.operations = nn.ModuleList(
            operation(kind, channels, 2 if reduction and source < 2 else 1, drop_path)
            for node in self.plan
            for kind, source in node
        )
        self.join = conv_norm(4 * channels, channels, 1)
        self.relu = nn.ReLU()

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for place, ((_, first), (_, second)) in enumerate(self.plan):
            one, other = self.operations[2 * place], self.operations[2 * place + 1]
            states.append(one(states[first]) + other(states[second]))
        return self.relu(self.join(torch.cat(states[2:], 1)))


class Sphynx(nn.Module):
    """A stem of one convolution to 3 C0 channels, without ReLU, the cells, and a linear layer behind a global mean."""

    def __init__(
        self, width: int, cells: int, reductions: tuple[int, ...], classes: int, channels: int, drop_path: float
    ) -> None:
        super().__init__()
        self.stem = conv_norm(channels, 3 * width, 3)
        inside, now, halve = (3 * width, 3 * width), width, False
        self.cells = nn.ModuleList()
        for cell in range(cells):
            reduction = cell in reductions
            now = 4 * now if reduction else now
            self.cells.append(SphynxCell(inside, now, reduction, halve, drop_path))
            inside, halve = (inside[1], now), reduction
        self.linear = nn.Linear(now, classes)
        he_initialise(self)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, FactorizedReduce):
                    module.initialise()

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        return self.linear(torch.mean(s1, dim=(2, 3)))
