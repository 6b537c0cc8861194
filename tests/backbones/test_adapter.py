"""The input adapter."""

import pytest
import torch
from torch import nn

from relinearize.backbones import build_backbone
from relinearize.backbones.adapter import PixelInput
from relinearize.relu.sites import linearize, named_sites


def test_normalises_pixels_per_channel() -> None:
    adapter = PixelInput(nn.Identity(), mean=(0.5, 0.25), std=(0.5, 0.1))
    pixels = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(adapter(pixels).flatten(), torch.tensor([1.0, 2.5]))
    assert adapter.mean.shape == adapter.std.shape == (1, 2, 1, 1) and not adapter.state_dict()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_network_is_given_the_memory_order_it_asks_for(channels_last: bool, channels: int) -> None:
    pixels = torch.rand(2, 5, 4, channels).permute(0, 3, 1, 2)
    given = PixelInput(nn.Identity(), [0.5] * channels, [0.25] * channels, channels_last)(pixels)
    assert given.stride()[1:] == ((1, 4 * channels, channels) if channels_last else (20, 4, 1))


def test_linearized_through_the_adapter() -> None:
    network = build_backbone("resnet8", classes=2, image_size=8, width=2, channels=1)
    sites = named_sites(linearize(PixelInput(network, (0.5,), (0.5,)), (1, 8, 8)))
    assert list(sites) == [f"network.{name}" for name in named_sites(linearize(network, (1, 8, 8)))]


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,))])
def test_refusals(mean: tuple, std: tuple) -> None:
    with pytest.raises(ValueError, match="one value per channel"):
        PixelInput(nn.Identity(), mean, std)
