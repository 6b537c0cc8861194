"""The input adapter: networks take pixels in [0, 1], normalisation is part of them, so attacks work in pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelInput(nn.Module):
    """Normalises pixels (float in [0, 1], N x C x H x W) by `mean` and `std` per channel, then calls `network`.

    channels_last: false (trainer.channels_last) if `network` is to get them in N x C x H x W order, however they come.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], channels_last: bool = True
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(deviation > 0 for deviation in std):
            raise ValueError(f"mean {tuple(mean)} and std {tuple(std)} need one value per channel, std above 0")
        self.network, self.channels_last = network, channels_last
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        if not self.channels_last:
            x = x.clone(memory_format=torch.contiguous_format)  # contiguous() leaves the strides of one channel
        return self.network(x)


def inner_network(network: nn.Module) -> nn.Module:
    """The network behind a pixel adapter, whose names weights and masks go by; any other network is itself."""
    return network.network if isinstance(network, PixelInput) else network
