"""VGG16 with batch norm (Simonyan and Zisserman 2015) for small images: 13 convolutions, one linear layer.

At 32 pixels the fourth pool is left out, so that blocks 4 and 5 both work on 4 x 4 maps (RLNet's form). Both counting
conventions have the same ReLUs.
"""

import torch
from torch import Tensor, nn

from relinearize.backbones.initialisation import he_initialise

# (channels in units of the width, convolutions) of each block
VGG16_BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
POOL_LEFT_OUT = 4  # counted from 1
FULL_SIZE = 64  # pixels from which on all pools are used


class VGG(nn.Module):
    """Input N x `channels` x H x W, any H and W of at least `image_size`'s number of halvings; output N x `classes`."""

    def __init__(self, width: int, classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels_in = channels
        for block, (factor, convolutions) in enumerate(VGG16_BLOCKS, start=1):
            for number in range(1, convolutions + 1):
                channels_out = factor * width
                self.features.add_module(
                    f"conv{block}_{number}", nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False)
                )
                self.features.add_module(f"bn{block}_{number}", nn.BatchNorm2d(channels_out))
                self.features.add_module(f"relu{block}_{number}", nn.ReLU())
                channels_in = channels_out
            if block != POOL_LEFT_OUT or image_size >= FULL_SIZE:
                self.features.add_module(f"pool{block}", nn.MaxPool2d(2))
        self.linear = nn.Linear(channels_in, classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.mean(self.features(x), dim=(2, 3)))
