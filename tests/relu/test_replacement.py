"""What stands at removed positions: the site computes it, the state dict holds it, and no count counts it."""

import copy
import math

import pytest
import torch
from torch import nn

from relinearize.errors import UserError
from relinearize.methods.frozen import frozen_copy
from relinearize.relu.activation import MaskedReLU, ReplacedReLU
from relinearize.relu.mask import Mask
from relinearize.relu.replacement import polynomial
from relinearize.relu.sites import linearize, named_sites, site_shapes, to_masked, to_replaced

SHAPE = (3, 4, 4)
COEFFICIENTS = {
    "zero": (torch.arange(48).reshape(1, *SHAPE) % 3 > 0).float(),
    "affine": torch.tensor([[0.5, 0.2, 0.9], [0.1, 0.4, -0.3]]).reshape(2, 3, 1, 1),
    "quadratic": torch.tensor([[0.5, 0.2, 0.9], [0.1, 0.4, -0.3], [0.2, 0.0, 1.5]]).reshape(3, 3, 1, 1),
    "cubic": torch.tensor([[0.5, 0.2, 0.9], [0.1, 0.4, -0.3], [0.2, 0.0, 1.5], [0.1, -0.2, 0]]).reshape(4, 3, 1, 1),
}


def small_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)
    )
    return linearize(network, (2, 4, 4))


def by_hand(x: torch.Tensor, mask: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    result = torch.empty_like(x)
    every = coefficients.expand(len(coefficients), *SHAPE)
    for index in torch.cartesian_prod(*(torch.arange(side) for side in x.shape)).tolist():
        place, value = tuple(index[1:]), x[tuple(index)].item()
        slope, intercept, curvature, cubic = [float(one[place]) for one in every] + [0.0] * (4 - len(every))
        replaced = slope * value + intercept + curvature * value**2 + cubic * value**3
        result[tuple(index)] = max(value, 0) if mask[place] else replaced
    return result


@pytest.mark.parametrize("kind", COEFFICIENTS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_site_computes_its_formula_and_gradient(kind, layout):
    torch.manual_seed(0)
    site = ReplacedReLU(COEFFICIENTS[kind], SHAPE, 3)
    site.mask.copy_(torch.rand(SHAPE) < 0.5)
    x = torch.randn(2, *SHAPE).contiguous(memory_format=layout).requires_grad_()
    y = site(x)
    assert torch.allclose(y, by_hand(x.detach(), site.mask, COEFFICIENTS[kind]), atol=1e-6)
    inputs = x.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(site.double(), inputs) and torch.autograd.gradgradcheck(site, inputs)
    assert site.index == 3 and not list(site.parameters()) and list(site.state_dict()) == ["coefficients"]
    assert site.float()(x.detach().bfloat16()).dtype == torch.bfloat16


def test_a_full_mask_is_a_relu():
    site = ReplacedReLU(COEFFICIENTS["quadratic"], SHAPE)
    x = torch.randn(2, *SHAPE)
    assert torch.equal(site(x), x.relu())


def test_a_quadratic_is_one_product_and_a_cubic_two():
    class Counted(float):
        products = 0

        def __mul__(self, other):
            Counted.products += isinstance(other, Counted)
            return Counted(float(self) * float(other))

        def __add__(self, other):
            return Counted(float(self) + float(other))

    for coefficients, products in (((0.5,), 0), ((0.5, 0.3), 0), ((0.5, 0.3, 0.25), 1), ((0.5, 0.3, 0.25, 2.0), 2)):
        Counted.products = 0
        given = dict(enumerate(coefficients))
        expected = 1 + given.get(1, 0) + 4 * given.get(2, 0) + 8 * given.get(3, 0)
        assert polynomial(Counted(2.0), coefficients) == expected
        assert Counted.products == products


def test_a_network_takes_it_from_weights_and_keeps_it():
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    first, second = named_sites(network)
    to_replaced(network, {**before, f"{second}.coefficients": COEFFICIENTS["affine"]})
    assert type(named_sites(network)[first]) is MaskedReLU and type(named_sites(network)[second]) is ReplacedReLU
    assert set(network.state_dict()) - set(before) == {f"{second}.coefficients"}
    mask = Mask({name: torch.rand(shape) < 0.5 for name, shape in site_shapes(network).items()})
    to_masked(network, mask)
    assert Mask.of(network) == mask, "no count sees it"
    assert torch.equal(named_sites(network)[second].coefficients, COEFFICIENTS["affine"])
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(frozen_copy(network)(x), network(x)) and torch.equal(copy.deepcopy(network)(x), network(x))


@pytest.mark.parametrize("shape", [(5, 3, 1, 1), (2, 3, 4, 4), (1, 3, 1, 1), (2, 3), (2, 4, 1, 1), (0, 3, 1, 1)])
def test_coefficients_of_another_shape_are_refused(shape):
    network = small_network()
    name = next(iter(named_sites(network)))
    with pytest.raises(UserError, match=rf"site {name} cannot be replaced: coefficients of shape .* \(3, 4, 4\)"):
        to_replaced(network, {f"{name}.coefficients": torch.ones(shape)})


def test_flat_sites():
    site = ReplacedReLU(torch.tensor([[0.5, 1.0], [0.25, 0.0]]), (2,))
    site.mask.copy_(torch.tensor([False, True]))
    assert site(torch.tensor([[-2.0, -2.0]])).tolist() == [[-0.75, 0.0]] and math.prod(site.mask.shape) == 2
