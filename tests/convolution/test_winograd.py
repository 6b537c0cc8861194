"""Winograd's convolutions against direct ones in float64, forward and backward."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relinearize.convolution.building import library
from relinearize.convolution.winograd import GRADIENT_BLOCK, convolve, suits
from relinearize.errors import UserError

try:
    library()
except UserError as error:  # a machine without a compiler
    pytest.skip(str(error), allow_module_level=True)

CLOSE = 3e-5  # of the largest value: F(4, 3) loses a few bits of float32's 24

# Images, inputs, outputs, height, width. Maps of all remainders by the tiles of 4 (and 8), one pixel wider than high;
# channels of one panel, of several, and different ones; more tiles than a block of any kind holds.
SHAPES = [
    *((2, 16, 32, 8 + size, 9 + size) for size in range(8)),
    (1, 48, 16, 5, 7),
    (2, 32, 48, 6, 6),
    (3, 64, 128, 16, 16),
    (40, 16, 16, 32, 32),
]


def case(
    images: int, inputs: int, outputs: int, height: int, width: int, stride: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and the gradient of the results."""
    generator = torch.Generator().manual_seed(inputs * outputs + height)
    sizes = [-(-height // stride), -(-width // stride)]
    shapes = ([images, inputs, height, width], [outputs, inputs, 3, 3], [outputs], [images, outputs, *sizes])
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def results(convolution, gradient: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Results of a convolution and its gradients for its three inputs."""
    inputs = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in inputs]
    y = convolution(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, gradient.to(y.dtype))]


def direct(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, stride: int) -> list[Tensor]:
    return results(
        lambda x, weight, bias: F.conv2d(x, weight, bias, stride, padding=1),
        gradient,
        *(tensor.double() for tensor in (x, weight, bias)),
    )


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for name, mine, theirs in zip(("y", "x", "weight", "bias"), found, expected, strict=True):
        assert mine.dtype is torch.float32
        assert mine.shape == theirs.shape, name
        error = float((mine - theirs).abs().max() / theirs.abs().max())
        assert error < CLOSE, f"{name}: {error:.1e}"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_are_those_of_a_direct_convolution(shape: tuple[int, ...], stride: int) -> None:
    x, weight, bias, gradient = case(*shape, stride)
    assert suits(x, weight, stride)
    found = results(lambda *inputs: convolve(*inputs, stride), gradient, x, weight, bias)
    assert_close(found, direct(x, weight, bias, gradient, stride))


def test_the_largest_of_these_shapes_needs_several_blocks_of_tiles() -> None:
    images, *_, height, width = SHAPES[-1]
    assert images * (height // 8) * (width // 8) > 4 * GRADIENT_BLOCK


@pytest.mark.parametrize("stride", [1, 2])
def test_any_memory_order_of_images_weights_and_gradients(stride: int) -> None:
    x, weight, bias, gradient = case(2, 16, 32, 9, 12, stride)
    expected = direct(x, weight, bias, gradient, stride)
    orders = (torch.contiguous_format, torch.channels_last)
    for of_x, of_weight, of_gradient in itertools.product(orders, repeat=3):
        found = results(
            lambda *inputs: convolve(*inputs, stride),
            gradient.contiguous(memory_format=of_gradient),
            x.contiguous(memory_format=of_x),
            weight.contiguous(memory_format=of_weight),
            bias,
        )
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        assert_close(found, expected)


def test_views_with_gaps_and_steps_of_zero() -> None:
    x, weight, bias, _ = case(2, 32, 32, 8, 8, 1)
    inputs = (x[:, ::2], weight[::2, ::2], bias[:1].expand(16))  # what a narrower network has, and a broadcast
    found = convolve(*inputs)
    torch.testing.assert_close(found, F.conv2d(*inputs, padding=1), rtol=1e-4, atol=1e-4)


def test_only_the_gradients_asked_for() -> None:
    x, weight, bias, gradient = case(2, 16, 16, 8, 8, 1)
    convolve(x, weight.requires_grad_(), None).backward(gradient)
    assert weight.grad is not None and x.grad is None
    expected = direct(x, weight.detach(), bias, gradient, 1)
    torch.testing.assert_close(weight.grad.double(), expected[2], rtol=1e-3, atol=1e-3)
    attacked = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(convolve(attacked, weight.detach(), bias), attacked, gradient)
    torch.testing.assert_close(found.double(), expected[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_same_bits_whatever_the_number_of_threads(stride: int) -> None:
    x, weight, bias, gradient = case(8, 32, 48, 16, 16, stride)
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(lambda *inputs: convolve(*inputs, stride), gradient, x, weight, bias)[:3])
    finally:
        torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[0], other, strict=True))


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    x, weight, _, _ = case(1, 16, 16, 8, 8, 1)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(convolve(x, weight, None).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_not_a_number_stays_not_a_number() -> None:
    x, weight, _, _ = case(1, 16, 16, 8, 8, 1)
    x[0, 3, 4, 4] = torch.nan
    assert convolve(x, weight, None)[0, :, 4, 4].isnan().all()


@pytest.mark.parametrize(
    ("x", "outputs", "stride"),
    [
        (torch.ones(1, 3, 8, 8), 16, 1),  # channels of the images
        (torch.ones(1, 16, 8, 8), 24, 1),
        (torch.ones(1, 16, 2, 8), 16, 1),  # a map so small that it saves nothing
        (torch.ones(1, 16, 4, 8), 16, 2),
        (torch.ones(1, 16, 8, 8, dtype=torch.float64), 16, 1),
        (torch.ones(0, 16, 8, 8), 16, 1),
        (torch.ones(16, 8, 8), 16, 1),  # one image without a batch
    ],
    ids=lambda value: str(tuple(value.shape)) if isinstance(value, Tensor) else str(value),
)
def test_what_does_not_suit_goes_to_torch(x: Tensor, outputs: int, stride: int) -> None:
    weight = torch.ones(outputs, x.shape[-3], 3, 3, dtype=x.dtype)
    assert not suits(x, weight, stride)
    assert torch.equal(convolve(x, weight, None, stride), F.conv2d(x, weight, None, stride, padding=1))


def test_autocast_goes_to_torch() -> None:
    x, weight, bias, _ = case(1, 16, 16, 8, 8, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(x, weight, bias).dtype is torch.bfloat16
