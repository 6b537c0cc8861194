"""Scores by hand, on networks of a few units; and what a score pass leaves alone."""

import math

import pytest
import torch
from attack_toys import everything_about, mixed_modes, toy_network
from torch import nn

from relinearize.backbones import build_backbone
from relinearize.backbones.adapter import PixelInput
from relinearize.errors import UserError
from relinearize.methods import scores
from relinearize.methods.correlated import removal_order
from relinearize.methods.frozen import frozen_copy
from relinearize.relu.budget import top_mask
from relinearize.relu.sites import linearize, named_sites, site_shapes, to_masked, to_sloped

HEAD = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0], [-1.0, 0.5, 2.0]])
IMAGES = torch.tensor([[-1.0, 2.0, -3.0], [0.5, -0.25, -1.0], [1.0, 1.0, 1.0], [-2.0, -0.5, 0.25]])
LABELS = torch.tensor([0, 1, 2, 1])
D = IMAGES.clamp(max=0)


def one_site():
    """Images of three numbers are the pre-activations; a linear head of three classes."""
    network = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        network[2].weight.copy_(HEAD)
    return linearize(network, (3,))


def value_of(score, *arguments, **settings):
    (value,) = score(one_site(), [(IMAGES[:3], LABELS[:3]), (IMAGES[3:], LABELS[3:])], *arguments, **settings).values()
    assert value.dtype == torch.float32
    return value


def probabilities():
    return (IMAGES.clamp(min=0) @ HEAD.T).softmax(1)


def loss_gradient(labels):
    return (probabilities() - nn.functional.one_hot(labels, 3)) @ HEAD


def test_fisher_is_the_second_order_term_of_the_divergence_on_a_linear_head():
    p = probabilities()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    closed = (D.square() * torch.einsum("ci,ncd,di->ni", HEAD, curvature, HEAD)).mean(0) / 2
    torch.testing.assert_close(value_of(scores.fisher, exact=True), closed, rtol=1e-6, atol=1e-6)

    def divergence(step):
        moved = (IMAGES.clamp(min=0).double()[:, None] + step * torch.diag_embed(D.double())) @ HEAD.double().T
        q = p.double()[:, None]
        return (q * (q.log() - moved.log_softmax(2))).sum(2).mean(0)

    step = 1e-3
    second = (divergence(step) + divergence(-step) - 2 * divergence(0.0)) / step**2 / 2
    torch.testing.assert_close(value_of(scores.fisher, exact=True).double(), second, rtol=1e-5, atol=1e-6)


def test_fisher_draws_its_labels_from_the_network():
    draws = torch.stack([value_of(scores.fisher, seed=seed) for seed in range(100)])
    torch.testing.assert_close(draws.mean(0), value_of(scores.fisher, exact=True), rtol=0.3, atol=0.02)
    assert value_of(scores.fisher, seed=3).equal(value_of(scores.fisher, seed=3))


def test_scores_by_hand():
    g = loss_gradient(LABELS)
    expected = {
        scores.gradient: (g * D).abs().mean(0),
        scores.snip: (g * D).mean(0).abs(),
        scores.clipped: -D.mean(0),
        scores.negative_share: (IMAGES < 0).float().mean(0),
    }
    for score, value in expected.items():
        torch.testing.assert_close(value_of(score), value, rtol=1e-6, atol=1e-7)
    teacher = one_site()
    torch.testing.assert_close(value_of(scores.mismatch, teacher=teacher), -D.mean(0))
    with pytest.raises(UserError, match="all-ReLU network"):
        value_of(scores.mismatch)


def test_centred_fisher_takes_the_mean_of_the_batch_off():
    g = loss_gradient(LABELS)
    (value,) = scores.gradient_means(one_site(), [(IMAGES, LABELS)], lambda z, g: g, scores.true_labels).values()
    torch.testing.assert_close(value, g.mean(0))
    p, batch = probabilities(), [(IMAGES, LABELS)]
    by_class = torch.stack([loss_gradient(torch.full((4,), number)) for number in range(3)], dim=1)
    expected = (p[:, :, None] * (by_class * (D - D.mean(0))[:, None]).square()).sum(1).mean(0) / 2
    (value,) = scores.fisher_centred(one_site(), batch, exact=True).values()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_relupruner_by_hand():
    z, g = IMAGES, loss_gradient(LABELS) / 4
    first, negative = (g * z * 4).abs().mean(0), (z < 0).float().mean(0)
    batch = [(IMAGES, LABELS)]
    (plain,) = scores.relupruner(one_site(), batch).values()
    torch.testing.assert_close(plain, first * negative, rtol=1e-5, atol=1e-7)
    (second,) = scores.relupruner(one_site(), batch, second_order=True).values()
    torch.testing.assert_close(second, (first + (g * z * 4).square().mean(0) / 2) * negative, rtol=1e-5, atol=1e-7)
    (twice,) = scores.relupruner(one_site(), [*batch, (IMAGES * 2, LABELS)], decay=0.0).values()
    (last,) = scores.relupruner(one_site(), [(IMAGES * 2, LABELS)]).values()
    assert twice.equal(last), "with no memory, only the last batch counts"


def test_relupruner_weighs_sites_from_a_tenth_on():
    network, images = toy_network(), torch.rand(6, 3, 8, 8)
    network.network = linearize(network.network, (3, 8, 8))
    batch = [(images, torch.arange(6) % 5)]
    plain, weighted = (scores.relupruner(network, batch, layer_weights=one) for one in (False, True))
    ratios = [float(weighted[name].sum() / plain[name].sum()) for name in plain]
    assert math.isclose(min(ratios), 0.1, rel_tol=1e-4) and math.isclose(max(ratios), 1.1, rel_tol=1e-4)


def test_slopes_and_chance_need_no_images():
    network = one_site()
    with pytest.raises(UserError, match="SNL's search"):
        scores.slope(network)
    (first,), (again,), (other,) = (scores.random(network, seed=seed).values() for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)
    to_sloped(network)
    (site,) = named_sites(network).values()
    with torch.no_grad():
        site.alpha.copy_(torch.tensor([0.5, -0.25, 1.0]))
    assert next(iter(scores.slope(network).values())).tolist() == [0.5, -0.25, 1.0]


@pytest.mark.parametrize("score", ["fisher", "fisher_centred", "gradient", "clipped", "mismatch", "relupruner"])
@pytest.mark.parametrize(("name", "size", "settings"), [("resnet8", 8, {}), ("vgg16_bn", 32, {"width": 8})])
def test_any_backbone_is_scored_and_left_as_it_was(score, name, size, settings):
    torch.manual_seed(0)
    backbone = build_backbone(name, classes=5, image_size=size, **settings)
    network = PixelInput(linearize(backbone, (3, size, size)), (0.5,) * 3, (0.25,) * 3)
    teacher = frozen_copy(network)
    mixed_modes(network)
    batches = [(torch.rand(4, 3, size, size), torch.tensor([0, 1, 2, 3]))]
    before = everything_about(network)
    found = getattr(scores, score)(network, batches, teacher=teacher)
    assert {name: tuple(one.shape) for name, one in found.items()} == site_shapes(network.network)
    assert everything_about(network) == before
    assert all(bool((one >= 0).all()) for one in found.values()) and sum(one.sum() for one in found.values()) > 0


def test_a_linear_position_is_scored_as_if_it_were_kept():
    """In the only site of a network the pre-activation does not depend on the mask; the labels' gradient does."""
    network = one_site()
    full = scores.clipped(network, [(IMAGES, LABELS)])
    to_masked(network, top_mask(full, 1))
    assert scores.clipped(network, [(IMAGES, LABELS)])["1"].equal(full["1"])


def test_damage_vectors_are_the_roots_of_fisher():
    batches = [(IMAGES[:3], LABELS[:3]), (IMAGES[3:], LABELS[3:])]
    vectors, shapes = scores.damage_vectors(one_site(), batches, seed=7)
    assert shapes == {"1": (3,)} and vectors.shape == (4, 3)
    torch.testing.assert_close(vectors.square().mean(0) / 2, scores.fisher(one_site(), batches, seed=7)["1"])


def test_joint_damage_lets_a_position_go_whose_damage_another_undoes():
    """1 undoes what removing 0 does, so that the two go together; by single damage 1, the largest, would stay."""
    vectors = torch.tensor([[1.0, -1.5, 0.0], [-1.0, 1.5, 0.0], [0.0, 0.0, 1.8], [0.0, 0.0, -1.8]])
    assert removal_order(vectors, keep=1, diagonal=0.0).argsort().tolist() == [0, 1, 2]
    assert removal_order(vectors, keep=1, diagonal=100.0).argsort().tolist() == [0, 1, 2]
    assert vectors.square().mean(0).argsort().tolist() == [0, 1, 2]
    smaller = vectors * torch.tensor([1.0, 1.0, 0.8])
    assert smaller.square().mean(0).argsort().tolist() == [0, 2, 1]
    assert removal_order(smaller, keep=1, diagonal=0.0).argsort().tolist() == [0, 1, 2]
    assert removal_order(smaller, keep=1, diagonal=100.0).argsort().tolist() == [0, 2, 1]
