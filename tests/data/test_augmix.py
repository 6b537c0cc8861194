"""AugMix: batches against a straight line of Pillow calls, the draws' statistics, seeds and shards."""

import itertools

import numpy as np
import pytest
import torch
from augmix_reference import KINDS, drawn_by_numpy, photographs, random_images, straight_line

from relinearize.data.augmix import ENDED, draw_augmix, mixed
from relinearize.data.augmix_operations import OPERATIONS, parameters


def augmix(images, seed, **settings):
    return mixed(images, draw_augmix(len(images), torch.Generator().manual_seed(seed), **settings))


def test_draws_have_the_described_distributions():
    count = 20_000
    draw = draw_augmix(count, torch.Generator().manual_seed(0))
    assert draw.operations.shape == draw.levels.shape == draw.signs.shape == (count, 3, 3)
    drawn = draw.operations != ENDED
    depths = drawn.sum(2)
    assert torch.equal(drawn, torch.arange(3) < depths[..., None])  # chains end once
    shares = depths.flatten().bincount() / depths.numel()
    assert shares[0] == 0 and (shares[1:] - 1 / 3).abs().max() < 0.01
    frequencies = draw.operations[drawn].bincount(minlength=9) / drawn.sum()
    assert len(frequencies) == 9 and (frequencies - 1 / 9).abs().max() < 0.004
    assert 0.1 <= draw.levels.min() < 0.101 and 2.999 < draw.levels.max() < 3
    quantiles = draw.levels.flatten().sort().values[torch.tensor([1, 2, 3]) * draw.levels.numel() // 4]
    assert quantiles.tolist() == pytest.approx([0.825, 1.55, 2.275], abs=0.02)
    assert set(draw.signs.unique().tolist()) == {-1, 1} and abs(draw.signs.double().mean()) < 0.01
    coefficients = draw.coefficients.double()
    assert coefficients.min() >= 0 and (coefficients.sum(1) - 1).abs().max() < 1e-6
    clean, weights = coefficients[:, 0], coefficients[:, 1:] / coefficients[:, 1:].sum(1, keepdim=True)
    assert clean.mean() == pytest.approx(1 / 2, abs=0.01) and clean.var() == pytest.approx(1 / 12, abs=0.003)
    assert weights.mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)  # Dirichlet(1, 1, 1)
    assert weights.var(0).tolist() == pytest.approx([1 / 18] * 3, abs=0.002)
    together = torch.stack([clean, *weights.T, draw.levels[:, 0, 0], draw.operations[:, 0, 0].double()])
    correlation = torch.corrcoef(together)
    assert correlation[0, 1:].abs().max() < 0.03 and correlation[4, 5].abs() < 0.03


def test_severity_and_width():
    draw = draw_augmix(50, torch.Generator().manual_seed(0), severity=1.0, width=2)
    assert draw.operations.shape == (50, 2, 3) and draw.levels.max() < 1
    assert draw.coefficients.shape == (50, 3)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("digits", {}),
        ("photographs", {}),
        ("large photographs", {"severity": 10}),
        ("rectangles", {"width": 1}),
        ("odd sides", {"width": 4}),
    ],
)
def test_batches_equal_a_straight_line_of_pillow_calls(kind, settings):
    images = KINDS[kind]()
    draw = draw_augmix(len(images), torch.Generator().manual_seed(3), **settings)
    ours = mixed(images, draw)
    assert ours.dtype == torch.float32 and ours.is_contiguous(memory_format=torch.channels_last)
    theirs = torch.stack([straight_line(image, draw, number) for number, image in enumerate(images)])
    assert (ours.permute(0, 2, 3, 1) - theirs).abs().max() < 1e-6


def test_natural_images_change_as_much_as_by_the_reference():
    images = photographs(500)
    rng = np.random.default_rng(0)
    theirs = np.mean([np.abs(drawn_by_numpy(image, rng) - image.numpy() / 255).mean() for image in images]) * 255
    clean = images.permute(0, 3, 1, 2) / 255
    ours = np.mean([(augmix(images, seed) - clean).abs().mean().item() for seed in range(5)]) * 255
    assert ours == pytest.approx(theirs, rel=0.06)
    assert 8 < ours < 17  # 12 for CIFAR-10


def test_output_is_in_range_and_not_rounded():
    for images in (random_images(64, 32, 32, 3, low=250), torch.full((64, 8, 8, 1), 255, dtype=torch.uint8)):
        views = augmix(images, 0, severity=10)
        assert views.min() >= 0 and views.max() <= 1
    steps = augmix(random_images(8, 32, 32, 3), 0) * 255
    assert ((steps - steps.round()).abs() > 0.01).float().mean() > 0.5


def test_a_seed_fixes_the_result_and_the_global_random_state_is_left_alone():
    images = random_images(16, 16, 16, 3)
    before = torch.get_rng_state()
    first = augmix(images, 5)
    assert torch.equal(first, augmix(images, 5))
    assert not torch.equal(first, augmix(images, 6))
    assert torch.equal(before, torch.get_rng_state())


def test_images_draw_one_by_one():
    images = random_images(1, 16, 16, 3).expand(64, -1, -1, -1)
    views = augmix(images, 0)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 64


def test_shards_of_a_draw_are_the_draw():
    images = random_images(23, 16, 16, 3)
    draw = draw_augmix(23, torch.Generator().manual_seed(0))
    whole = mixed(images, draw)
    for world_size, rank in itertools.chain.from_iterable(((n, r) for r in range(n)) for n in (2, 5)):
        assert torch.equal(mixed(images[rank::world_size], draw.shard(rank, world_size)), whole[rank::world_size])


@pytest.mark.gpu
def test_gpu_gives_the_same_bytes():
    images = photographs(60)
    draw = draw_augmix(60, torch.Generator().manual_seed(0), severity=10)
    assert (mixed(images.cuda(), draw).cpu() - mixed(images, draw)).abs().max() < 1e-6
    for position, operation in enumerate(OPERATIONS):
        planes = images.permute(0, 3, 1, 2).contiguous()
        values = parameters(torch.full((60,), position), draw.levels[:, 0, 0], draw.signs[:, 0, 0], 32, 32)
        assert torch.equal(operation(planes.cuda(), values.cuda()).cpu(), operation(planes, values))
