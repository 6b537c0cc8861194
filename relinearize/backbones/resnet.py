"""ResNets for small images (He et al. 2016, CIFAR form): 3x3 stem, no max-pool, basic blocks.

Convention "senet" has a ReLU after the stem, "snl" has none (papers: SENet and RLNet against SNL).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from relinearize.backbones.initialisation import he_initialise
from relinearize.backbones.routes import RoutedBatchNorm
from relinearize.backbones.shortcut import every_pixel
from relinearize.errors import UserError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; ReLU 1 follows the first, ReLU 2 the addition of the shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.identity_shortcut = True  # see drop_identity_shortcuts
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.identity_shortcut or len(self.shortcut):
            out = out + self.shortcut(every_pixel(x, self.stride))
        return self.relu2(out)


class ResNet(nn.Module):
    """Stages of `blocks[i]` basic blocks with `width * 2**i` channels, each but the first halving the map.

    Input N x `channels` x H x W, any H and W; output N x `classes`.
    """

    def __init__(self, blocks: Sequence[int], width: int, classes: int, channels: int, stem_relu: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU() if stem_relu else nn.Identity()
        self.stages = len(blocks)
        channels_in = width
        for stage, count in enumerate(blocks):
            channels_out = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            layer = nn.Sequential()
            for stride in strides:
                layer.append(BasicBlock(channels_in, channels_out, stride))
                channels_in = channels_out
            self.add_module(f"layer{stage + 1}", layer)
        self.linear = nn.Linear(channels_in, classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            out = self.get_submodule(f"layer{stage}")(out)
        return self.linear(torch.mean(out, dim=(2, 3)))


def drop_identity_shortcuts(network: nn.Module) -> None:
    """Let the blocks of a ResNet that have no projection add nothing, in place: 5 of 8 blocks of a ResNet-18.

    The students of SENet's and RLNet's released code are such networks (their teachers are not), so their published
    numbers may be, too. Raises UserError for a network without such blocks.
    """
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
    if not blocks:
        raise UserError("backbone.student_skip=false is for the project's ResNets; this backbone has no such blocks")
    for block in blocks:
        block.identity_shortcut = False


def share_shortcut_norms(network: nn.Module) -> None:
    """Let the batch norms of a ResNet's projection shortcuts have one set for all routes, in place (the clean one).

    The two-set teacher of RLNet's released code is such a network; its students have a set per route there, too. Raises
    UserError for a network without such blocks.
    """
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
    if not blocks:
        raise UserError("method.teacher.shared_shortcut_norms=true is for the project's ResNets")
    for block in blocks:
        if len(block.shortcut) and isinstance(block.shortcut[1], RoutedBatchNorm):
            block.shortcut[1] = block.shortcut[1].clean
