"""Wide ResNet with pre-activation (Zagoruyko and Komodakis 2016), WRN-depth-widen.

Convention "senet" has a ReLU after the last batch norm, "snl" has none.
"""

import torch
from torch import Tensor, nn

from relinearize.backbones.initialisation import he_initialise
from relinearize.backbones.shortcut import every_pixel


class PreActivationBlock(nn.Module):
    """bn, ReLU, 3x3 conv, twice, and a shortcut; where the block changes shape, the activated tensor feeds it too."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(every_pixel(activated, self.stride)))


class WideResNet(nn.Module):
    """Three stages of `(depth - 4) / 6` blocks, `width * widen`, twice and four times that many channels.

    Input N x `channels` x H x W, any H and W; output N x `classes`.
    """

    def __init__(self, depth: int, widen: int, width: int, classes: int, channels: int, final_relu: bool) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth of a wide ResNet is 6n + 4, not {depth}")
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        channels_in = width
        for stage in range(3):
            channels_out = width * widen * 2**stage
            block = nn.Sequential()
            for number in range(blocks):
                block.append(PreActivationBlock(channels_in, channels_out, 2 if stage and not number else 1))
                channels_in = channels_out
            self.add_module(f"block{stage + 1}", block)
        self.bn = nn.BatchNorm2d(channels_in)
        self.relu = nn.ReLU() if final_relu else nn.Identity()
        self.linear = nn.Linear(channels_in, classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.linear(torch.mean(self.relu(self.bn(out)), dim=(2, 3)))
