"""What strided 1x1 convolutions read."""

import pytest
import torch

from relinearize.backbones.shortcut import every_pixel


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_pixel_is_a_slice_whose_gradient_keeps_the_memory_order(size, stride):
    x = torch.randn(2, 16, size, size).to(memory_format=torch.channels_last).requires_grad_()
    picked = every_pixel(x, stride)
    assert torch.equal(picked, x[:, :, ::stride, ::stride])
    weights = torch.randn_like(picked)
    (gradient,) = torch.autograd.grad((picked * weights).sum(), x)
    wanted = torch.zeros_like(x)
    wanted[:, :, ::stride, ::stride] = weights
    assert torch.equal(gradient, wanted)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
