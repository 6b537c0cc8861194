"""The fits of replacements: closed forms, moments, a network of a few units by hand."""

import math

import pytest
import torch
from torch import nn

from relinearize.errors import UserError
from relinearize.methods.replacement import LEAST_DEVIATION, Affine, Cubic, Quadratic, Zero, moments
from relinearize.relu.mask import Mask
from relinearize.relu.replacement import polynomial
from relinearize.relu.sites import linearize, named_sites, to_masked


def values(kind, mean, deviation):
    return kind.fitted(torch.tensor([mean], dtype=torch.float64), torch.tensor([deviation], dtype=torch.float64))[:, 0]


def test_the_formulas_at_numbers_worked_out_by_hand():
    assert values(Affine, 0.0, 1.0).tolist() == pytest.approx([0.5, 0.39894], abs=1e-5)
    assert values(Quadratic, 0.0, 1.0).tolist() == pytest.approx([0.5, 0.19947, 0.19947], abs=1e-5)
    # t = 0.5: Phi 0.69146, phi 0.35207
    assert values(Affine, 1.0, 2.0).tolist() == pytest.approx([0.69146, 0.70413], abs=1e-5)
    assert values(Quadratic, 1.0, 2.0).tolist() == pytest.approx([0.51543, 0.44008, 0.08802], abs=1e-5)
    assert values(Cubic, 0.0, 1.0).tolist() == pytest.approx([0.5, 0.19947, 0.19947, 0.0], abs=1e-5)
    # t = 1: Phi 0.84134, phi 0.24197. Slope Phi - phi, intercept 2 phi 4/6, curvature phi / 2, then -phi / 24
    assert values(Cubic, 2.0, 2.0).tolist() == pytest.approx([0.59937, 0.32263, 0.12099, -0.01008], abs=1e-5)


@pytest.mark.parametrize("kind", [Affine, Quadratic, Cubic])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-0.7, 0.4), (1.5, 2.0)])
def test_they_are_the_least_squares_fit_under_a_gaussian(kind, mean, deviation):
    """Solved numerically, on a fine grid with the Gaussian's weights."""
    z = torch.linspace(mean - 9 * deviation, mean + 9 * deviation, 20001, dtype=torch.float64)
    root = torch.exp(-((z - mean) ** 2) / (4 * deviation**2))[:, None]
    powers = torch.stack([z, torch.ones_like(z), z**2, z**3][: len(values(kind, mean, deviation))], dim=1)
    best = torch.linalg.lstsq(powers * root, z.relu()[:, None] * root).solution[:, 0]
    assert values(kind, mean, deviation).tolist() == pytest.approx(best.tolist(), abs=1e-4)


def network_of(layers, size, kept=0.0):
    torch.manual_seed(0)
    network = linearize(nn.Sequential(*layers), size).eval()
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: torch.rand(site.mask.shape, generator=generator) < kept for name, site in named_sites(network).items()
    }
    to_masked(network, Mask(masks))
    return network


@pytest.mark.parametrize("kind", [Affine, Quadratic, Cubic])
def test_gaussian_inputs_give_the_closed_form(kind):
    """Per channel, over the removed positions alone: the kept ones are given something else."""
    network = network_of([nn.ReLU(), nn.Flatten(), nn.Linear(2 * 64, 2)], (2, 8, 8), kept=0.5)
    images = torch.randn(4000, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    images = images * torch.tensor([1.0, 2.0]).view(2, 1, 1) + torch.tensor([0.0, 1.0]).view(2, 1, 1)
    (mask,) = Mask.of(network).values()
    images[:, mask] = 100.0
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in images.split(500)]
    (found,) = kind(images=4000).coefficients(network, batches, 0).values()
    assert found.shape == (len(values(kind, 0.0, 1.0)), 2, 1, 1) and found.dtype == torch.float32
    expected = torch.stack([values(kind, 0.0, 1.0), values(kind, 1.0, 2.0)], dim=1)
    # 4000 images of 32 positions: the mean of the second channel is known to 2 / sqrt(128,000) = 0.006
    assert torch.allclose(found[..., 0, 0].double(), expected, atol=5e-3)
    (removed,) = (~one for one in Mask.of(network).values())
    assert torch.allclose(found[..., 0, 0], kind.fitted(*moments(images, removed)), atol=1e-6)


@pytest.mark.parametrize("kind", [Affine, Quadratic, Cubic])
def test_a_sample_with_the_moments_of_a_gaussian_gives_the_closed_form(kind):
    z = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000).float()
    network = network_of([nn.ReLU(), nn.Linear(1, 2)], (1,))
    (found,) = kind(images=200_000).coefficients(network, [(z[:, None], torch.zeros(len(z)))], 0).values()
    assert found[:, 0].tolist() == pytest.approx(values(kind, 0.0, 1.0).tolist(), abs=1e-3)


def test_each_site_is_fitted_to_what_replaced_sites_give_it():
    network = network_of([nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)], (4,), kept=0.3)
    images = torch.randn(300, 4)
    found = Quadratic().coefficients(network, [(images, torch.zeros(300))], 0)
    first, second = named_sites(network).values()
    one, two = found.values()
    between = network[1](torch.where(first.mask, images.relu(), polynomial(images, one)))
    assert torch.allclose(two, Quadratic.fitted(*moments(between.detach(), ~second.mask)), atol=1e-5)
    assert type(first).__name__ == "MaskedReLU" and not network.training, "the network is left as it is"


def test_fewer_large_images_are_fitted_to():
    """As many pixels: of 1,024 images of 64 pixels a side, 256 of 128."""
    network = network_of([nn.AvgPool2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)], (1, 128, 128))
    images = torch.randn(300, 1, 128, 128)
    (found,) = Affine().coefficients(network, [(images, torch.zeros(300))], 0).values()
    pooled = nn.functional.avg_pool2d(images[:256], 32)
    assert torch.allclose(found[..., 0, 0], Affine.fitted(*moments(pooled, torch.ones(1, 4, 4).bool())), atol=1e-6)


def test_no_more_large_images_are_asked_for_than_are_fitted_to():
    """256 of 128 pixels: two batches of 200, which give what one of 300 does."""
    network = network_of([nn.AvgPool2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)], (1, 128, 128))
    images = torch.randn(1000, 1, 128, 128)
    batches = iter([(part, torch.zeros(len(part))) for part in images.split(200)])
    (found,) = Affine().coefficients(network, batches, 0).values()
    assert len(list(batches)) == 3
    (whole,) = Affine().coefficients(network, [(images[:300], torch.zeros(300))], 0).values()
    assert torch.equal(found, whole)


def test_channels_that_do_not_vary_have_no_curvature():
    z = torch.stack([torch.randn(50), torch.zeros(50)], dim=1)
    mean, deviation = moments(z, torch.tensor([True, True]))
    assert deviation[1] == LEAST_DEVIATION * deviation[0] and mean[1] == 0
    assert moments(torch.zeros(50, 2), torch.tensor([True, True]))[1].tolist() == [1, 1]
    mean, deviation = moments(z + 5, torch.tensor([True, False]))
    assert mean[1] == 0 and math.isfinite(Quadratic.fitted(mean, deviation).sum())


def test_zero_is_chosen_by_hand_computed_damage():
    """Three units into two logits. Gradients do not depend on z, so that the signs and sizes of z decide."""
    network = network_of([nn.ReLU(), nn.Linear(3, 2)], (3,))
    to_masked(network, Mask({"0": torch.tensor([False, False, True])}))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
        network[1].bias.zero_()
    # unit 0: mostly negative, so relu is nearly 0; unit 1: mostly positive; unit 2: kept, though it is negative
    images = torch.tensor([[-3.0, 2.0, -1.0], [-2.0, 3.0, -1.0], [0.1, -0.1, -1.0]])
    batches = [(images, torch.zeros(3, dtype=torch.long))]
    (found,) = Zero().coefficients(network, batches, 0).values()
    assert found.tolist() == [[0, 1, 1]]
    p = (images[:, :2].sum(1)).sigmoid()  # of class 0; unit 2 gives 0
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(torch.stack([p, 1 - p], 1), 1, generator=generator)[:, 0]
    g = p - (drawn == 0).float()  # of -log p_y: the first logit's weight is 1
    identity = (g[:, None] * images.clamp(max=0)).square().mean(0) / 2
    zero = (g[:, None] * images.relu()).square().mean(0) / 2
    assert (zero < identity)[:2].tolist() == [True, False]


@pytest.mark.parametrize("kind", [Affine, Quadratic, Cubic, Zero])
@pytest.mark.parametrize("images", [0, 1.5, True, "many"])
def test_numbers_of_images(kind, images):
    with pytest.raises(UserError, match=r"replacement\.images"):
        kind(images=images)
