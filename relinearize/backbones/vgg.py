"""VGG16 with batch norm (Simonyan and Zisserman 2015) for small images: 13 convolutions, one linear layer.

The form of SENet's and RLNet's released code: max-pools after blocks 1 to 3, and after block 4 from 64 pixels on (at 32
blocks 4 and 5 both work on 4 x 4 maps); after block 5 the mean over the map. Both counting conventions have the same
ReLUs. Average pools, which are no one's release, cost no comparisons in private inference.
"""

import torch
from torch import Tensor, nn

from relinearize.backbones.initialisation import he_initialise

# (channels in units of the width, convolutions) of each block
VGG16_BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
POOLED = 3  # the first so many blocks end in a max-pool ...
POOLED_FROM_64 = 4  # ... and so many from 64 pixels on
POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


class VGG(nn.Module):
    """Input N x `channels` x H x W, any H and W of at least `image_size`'s number of halvings; output N x `classes`."""

    # What the released code compares in fine-tuning (methods/senet/pram.py): not the end of block 1.
    stage_ends = ("features.relu2_2", "features.relu3_3", "features.relu4_3", "features.relu5_3")

    def __init__(self, width: int, classes: int, channels: int, image_size: int, pool: str = "max") -> None:
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
            if block <= (POOLED_FROM_64 if image_size >= 64 else POOLED):
                self.features.add_module(f"pool{block}", POOLS[pool](2))
        self.linear = nn.Linear(channels_in, classes)
        he_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.mean(self.features(x), dim=(2, 3)))
