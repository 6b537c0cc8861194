"""The activations against their formulas: dtypes, memory orders, gradients, edge values."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relinearize.relu import kernels
from relinearize.relu.activation import MaskedReLU, ReplacedReLU, SlopedReLU

SHAPE = (5, 3, 4)
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
}


def batch(layout: str = "contiguous", dtype: torch.dtype = torch.float32, images: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, *SHAPE, generator=generator).to(dtype)
    x.view(-1)[::11] = 0.0  # ReLU's kink
    return LAYOUTS[layout](x)


def half_masked(shape: tuple[int, ...] = SHAPE) -> MaskedReLU:
    site = MaskedReLU(shape)
    site.mask.copy_(torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5)
    return site


def random_sloped(shape: tuple[int, ...] = SHAPE) -> SlopedReLU:
    site = SlopedReLU(shape)
    with torch.no_grad():
        site.alpha.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(2)))
    return site


def half_replaced(shape: tuple[int, ...] = SHAPE) -> ReplacedReLU:
    values = torch.randn(4, shape[0], *[1] * (len(shape) - 1), generator=torch.Generator().manual_seed(2))
    site = ReplacedReLU(values, shape)
    site.mask.copy_(half_masked(shape).mask)
    return site


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masked_is_where_of_relu(layout: str, dtype: torch.dtype) -> None:
    site, x, gradient = half_masked(), batch(layout, dtype).requires_grad_(), batch(layout, dtype, seed=3)
    y = site(x)
    y.backward(gradient)
    assert y.dtype == dtype and y.stride() == x.stride()
    assert torch.equal(y, torch.where(site.mask, torch.relu(x), x))
    assert torch.equal(x.grad, torch.where(site.mask & (x <= 0), 0, gradient))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sloped_is_its_formula(layout: str, dtype: torch.dtype) -> None:
    site, x, gradient = random_sloped(), batch(layout, dtype).requires_grad_(), batch(layout, dtype, seed=3)
    y = site(x)
    y.backward(gradient)
    exact, alpha, g = x.detach().double(), site.alpha.detach().double(), gradient.double()
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    assert y.dtype == dtype and x.grad.dtype == dtype and site.alpha.grad.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact - alpha * exact.clamp(max=0), **tolerance)
    torch.testing.assert_close(x.grad.double(), torch.where(exact > 0, g, g * (1 - alpha)), **tolerance)
    torch.testing.assert_close(site.alpha.grad.double(), -(g * exact.clamp(max=0)).sum(0), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [MaskedReLU, SlopedReLU])
def test_untouched_sites_equal_relu(kind: type, layout: str, dtype: torch.dtype) -> None:
    x, gradient = batch(layout, dtype).requires_grad_(), batch(layout, dtype, seed=3)
    reference = x.detach().clone().requires_grad_()
    y, expected = kind(SHAPE)(x), F.relu(reference)
    y.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(y, expected) and torch.equal(x.grad, reference.grad)


@pytest.mark.parametrize("layout", ["contiguous", pytest.param("channels_last", marks=pytest.mark.slow)])
def test_gradcheck(layout: str) -> None:
    x = batch(layout, torch.float64, images=2)
    x = torch.where(x.abs() < 0.05, 0.1, x).requires_grad_()  # finite differences do not step over the kink
    assert torch.autograd.gradcheck(half_masked(), x)
    alpha = torch.randn(SHAPE, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(kernels.SlopedReLUFunction.apply, (x, alpha))
    assert torch.autograd.gradgradcheck(half_masked(), x)
    assert torch.autograd.gradgradcheck(kernels.SlopedReLUFunction.apply, (x, alpha))


@pytest.mark.parametrize("part_bytes", [1, 2000, 2**22])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_parts_of_the_batch_do_not_matter(layout: str, part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PART_BYTES", part_bytes)
    site, x, gradient = random_sloped(), batch(layout).requires_grad_(), batch(layout, seed=3)
    site(x).backward(gradient)
    torch.testing.assert_close(site.alpha.grad, -(gradient * x.detach().clamp(max=0)).sum(0))
    torch.testing.assert_close(x.grad, torch.where(x > 0, gradient, gradient * (1 - site.alpha)).detach())


def test_slope_gradient_is_summed_in_float32() -> None:
    site, images = SlopedReLU((1,)), 4096
    x = torch.full((images, 1), -1.0, dtype=torch.bfloat16, requires_grad=True)
    site(x).backward(torch.ones_like(x))
    assert site.alpha.grad.item() == images  # bfloat16 sums of ones stop at 256


def test_gradients_of_another_layout_and_expanded() -> None:
    for site in (half_masked(), random_sloped()):
        x = batch("channels_last").requires_grad_()
        site(x).mean().backward()
        expanded = x.grad.clone()
        x.grad = None
        site(x).backward(torch.full((9, *SHAPE), 1 / x.numel()))
        torch.testing.assert_close(expanded, x.grad)


def test_infinite_and_nan_inputs() -> None:
    site = MaskedReLU((4,))
    site.mask.copy_(torch.tensor([True, False, True, False]))
    x = torch.tensor([[-torch.inf, -torch.inf, torch.nan, torch.nan]])
    assert torch.equal(site(x).nan_to_num(nan=7), torch.tensor([[0.0, -torch.finfo().max, 7, 7]]))


@pytest.mark.parametrize("make", [half_masked, random_sloped, half_replaced])
def test_flat_single_and_empty_batches(make) -> None:
    site = make((12,))
    for images in (0, 1, 5):
        x = torch.randn(images, 12, requires_grad=True)
        site(x).sum().backward()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize("make", [half_masked, random_sloped, half_replaced])
def test_autocast_keeps_the_dtype(make) -> None:
    convolution, site = torch.nn.Conv2d(5, 5, 3, padding=1), make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = site(convolution(batch()))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and convolution.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("make", [half_masked, random_sloped])
def test_deepcopy_is_independent(make) -> None:
    site = make()
    copied = copy.deepcopy(site)
    values = copied.mask if isinstance(copied, MaskedReLU) else copied.alpha.data
    before = site(batch()).detach().clone()
    values.zero_()
    assert torch.equal(site(batch()), before)
    assert torch.equal(copied(batch()), batch()) and copied.index == site.index


def test_saves_only_output_and_mask() -> None:
    saved: list[Tensor] = []
    x, site = batch().requires_grad_(), half_masked()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (saved.append(tensor), tensor)[1], lambda kept: kept):
        y = site(x)
    assert {tensor.data_ptr() for tensor in saved} == {y.data_ptr(), site.mask.data_ptr()}


def test_mask_is_not_in_the_state_dict_and_slopes_are() -> None:
    assert not MaskedReLU(SHAPE).state_dict()
    assert list(SlopedReLU(SHAPE).state_dict()) == ["alpha"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "layout", "dtype"),
    [
        (half_masked, "contiguous", torch.float32),
        (half_masked, "channels_last", torch.bfloat16),
        (random_sloped, "contiguous", torch.bfloat16),
        (random_sloped, "channels_last", torch.float32),
        (half_replaced, "contiguous", torch.float32),
        (half_replaced, "channels_last", torch.bfloat16),
    ],
)
def test_compiled_without_graph_break_equals_eager(make, layout: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    pairs = zip(*(passed(make, layout, dtype, compiled=compiled) for compiled in (False, True)), strict=True)
    for eager, compiled in pairs:
        torch.testing.assert_close(compiled, eager, rtol=tolerance, atol=tolerance)


def passed(make, layout: str, dtype: torch.dtype, device: str = "cpu", compiled: bool = False) -> list[Tensor | None]:
    """The outputs of a site, the gradient for them and, if it has slopes, for these."""
    site, x = make().to(device), batch(layout, dtype).to(device).requires_grad_()
    y = (torch.compile(site, fullgraph=True) if compiled else site)(x)
    y.backward(batch(layout, dtype, seed=3).to(device))
    return [y.detach().cpu(), x.grad.cpu(), None if isinstance(site, MaskedReLU) else site.alpha.grad.cpu()]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("make", [half_masked, random_sloped, half_replaced])
def test_cuda_equals_cpu(make, layout: str, dtype: torch.dtype, compiled: bool) -> None:
    torch._dynamo.reset()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    if make is half_masked and not compiled:
        tolerance = 0  # nothing is computed, values are only chosen
    on_gpu = passed(make, layout, dtype, "cuda", compiled)
    for cpu, cuda in zip(passed(make, layout, dtype), on_gpu, strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=tolerance, atol=tolerance)
