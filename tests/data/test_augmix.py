"""AugMix: every operation against Pillow, whole batches against a straight line of Pillow calls, the draws' statistics."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from relinearize.data.augmix import ENDED, AugMix, augmix, mixed
from relinearize.data.augmix_operations import OPERATIONS, parameters
from relinearize.errors import UserError

NAMES = [operation.__name__ for operation in OPERATIONS]
AFFINE = {
    "shear_x": lambda p: (1, p, 0, 0, 1, 0),
    "shear_y": lambda p: (1, 0, 0, p, 1, 0),
    "translate_x": lambda p: (1, 0, int(p), 0, 1, 0),
    "translate_y": lambda p: (1, 0, 0, 0, 1, int(p)),
}


def pillow(name: str, image: Image.Image, parameter: float) -> Image.Image:
    if name in AFFINE:
        return image.transform(image.size, Image.Transform.AFFINE, AFFINE[name](parameter), Image.Resampling.BILINEAR)
    if name == "rotate":
        return image.rotate(int(parameter), resample=Image.Resampling.BILINEAR)
    if name in ("posterize", "solarize"):
        return getattr(ImageOps, name)(image, int(parameter))
    return getattr(ImageOps, name)(image)


def to_pillow(image: torch.Tensor) -> Image.Image:
    """uint8 H x W x C."""
    return Image.fromarray(image.squeeze(2).numpy() if image.shape[2] == 1 else image.numpy())


def from_pillow(image: Image.Image) -> torch.Tensor:
    array = torch.from_numpy(np.array(image))
    return array if array.ndim == 3 else array[..., None]


def random_images(count: int, height: int, width: int, channels: int, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.randint(low, high, (count, height, width, channels), dtype=torch.uint8, generator=generator)


def photographs(count: int, size: int = 32) -> torch.Tensor:
    """Squares cut at random from scikit-learn's two photographs, made small: uint8 count x size x size x 3."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(array) for array in load_sample_images().images]
    squares = []
    for _square in range(count):
        picture, side = pictures[rng.integers(2)], int(rng.integers(64, 257))
        left, top = (int(rng.integers(0, room - side)) for room in picture.size)
        squares.append(picture.crop((left, top, left + side, top + side)).resize((size, size)))
    return torch.stack([from_pillow(square) for square in squares])


def hard_images() -> torch.Tensor:
    """One value only; all but one pixel alike; each value once; two values: where histograms have their corners."""
    one_value = torch.full((20, 20), 7, dtype=torch.uint8)
    one_bright, one_dark = torch.zeros(20, 20, dtype=torch.uint8), torch.full((20, 20), 255, dtype=torch.uint8)
    one_bright[3, 3], one_dark[19, 0] = 255, 254
    every = torch.arange(400).view(20, 20).clamp(max=255).to(torch.uint8)
    return torch.stack([one_value, one_bright, one_dark, every, every.flip(0), (every // 128) + 100])[..., None]


KINDS = {
    "digits": lambda: random_images(40, 8, 8, 1),
    "rectangles": lambda: random_images(25, 20, 64, 3),
    "few values": lambda: random_images(40, 20, 20, 3, low=100, high=104),
    "odd sides": lambda: random_images(25, 31, 9, 1),
    "photographs": lambda: photographs(60),
    "large photographs": lambda: photographs(15, size=64),
    "hard": hard_images,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", range(len(OPERATIONS)), ids=NAMES)
def test_operations_give_pillows_bytes(position, kind):
    images = KINDS[kind]()
    count, height, width, _channels = images.shape
    generator = torch.Generator().manual_seed(position)
    levels = 10 * torch.rand(count, dtype=torch.float64, generator=generator)
    levels[::2] *= 0.3  # half of them as weak as AugMix's at severity 3
    signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    values = parameters(torch.full((count,), position), levels, signs, height, width)
    planes = images.permute(0, 3, 1, 2).contiguous()
    kept = planes.clone()
    ours = OPERATIONS[position](planes, values)
    assert torch.equal(planes, kept) and ours.dtype == torch.uint8
    theirs = [
        from_pillow(pillow(NAMES[position], to_pillow(image), value))
        for image, value in zip(images, values.tolist(), strict=True)
    ]
    assert torch.equal(ours.permute(0, 2, 3, 1), torch.stack(theirs))


@pytest.mark.parametrize("degrees", [0, 1, -8, 30, -30])
def test_turns_of_each_angle(degrees):
    images = random_images(2, 32, 32, 3)
    ours = OPERATIONS[NAMES.index("rotate")](images.permute(0, 3, 1, 2).contiguous(), torch.full((2,), float(degrees)))
    theirs = [from_pillow(pillow("rotate", to_pillow(image), degrees)) for image in images]
    assert torch.equal(ours.permute(0, 2, 3, 1), torch.stack(theirs))


def test_parameters_by_hand():
    def at(name: str, level: float, sign: int = 1, height: int = 32, width: int = 32) -> float:
        tensors = torch.tensor([NAMES.index(name)]), torch.tensor([level], dtype=torch.float64), torch.tensor([sign])
        return parameters(*tensors, height, width).item()

    assert at("posterize", 2.4) == 4 and at("posterize", 2.5) == 3 and at("posterize", 10) == 0
    assert at("rotate", 2.99) == 8 and at("rotate", 2.99, -1) == -8 and at("rotate", 0.1) == 0
    assert at("solarize", 2.99) == 180 and at("solarize", 2.99, -1) == 180 and at("solarize", 0.1) == 254
    assert at("shear_x", 2) == pytest.approx(0.06) and at("shear_y", 2, -1) == pytest.approx(-0.06)
    assert at("translate_x", 2.99) == 3 and at("translate_x", 2.99, -1, width=64) == -6
    assert at("translate_y", 2.99, width=64) == 3 and at("translate_y", 2.99, height=64) == 6


def test_no_operation_is_a_test_corruption():
    assert sorted(NAMES) == sorted(
        [
            "autocontrast",
            "equalize",
            "posterize",
            "rotate",
            "solarize",
            "shear_x",
            "shear_y",
            "translate_x",
            "translate_y",
        ]
    )
    overlapping = "brightness contrast color colour saturate sharpness blur noise fog frost snow jpeg pixelate elastic"
    assert not any(word in name.replace("autocontrast", "") for name in NAMES for word in overlapping.split())


def test_draws_have_the_described_distributions():
    count = 20_000
    draw = AugMix().draw(count, torch.Generator().manual_seed(0))
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


def test_fixed_depth_and_width():
    draw = AugMix(severity=1.0, width=2, depth=4).draw(50, torch.Generator().manual_seed(0))
    assert draw.operations.shape == (50, 2, 4) and draw.operations.min() >= 0 and draw.levels.max() < 1
    assert draw.coefficients.shape == (50, 3)


def straight_line(image: torch.Tensor, draw, number: int) -> torch.Tensor:
    """AugMix of one image as the reference does it, with given draws: Pillow on bytes, sums in float64. H x W x C."""
    height, width, _channels = image.shape
    values = parameters(draw.operations, draw.levels, draw.signs, height, width)[number]
    shares = draw.coefficients[number].double()
    result = shares[0] * image / 255
    for chain, operations in enumerate(draw.operations[number].tolist()):
        picture = to_pillow(image)
        for step, position in enumerate(operations):
            if position != ENDED:
                picture = pillow(NAMES[position], picture, values[chain, step].item())
        result += shares[1 + chain] * from_pillow(picture) / 255
    return result


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("digits", AugMix()),
        ("photographs", AugMix()),
        ("large photographs", AugMix(severity=10)),
        ("rectangles", AugMix(width=1, depth=2)),
        ("odd sides", AugMix(width=4)),
    ],
)
def test_batches_equal_a_straight_line_of_pillow_calls(kind, settings):
    images = KINDS[kind]()
    draw = settings.draw(len(images), torch.Generator().manual_seed(3))
    ours = mixed(images, draw)
    assert ours.dtype == torch.float32 and ours.is_contiguous(memory_format=torch.channels_last)
    theirs = torch.stack([straight_line(image, draw, number) for number, image in enumerate(images)])
    assert (ours.permute(0, 2, 3, 1) - theirs).abs().max() < 1e-6


def drawn_by_numpy(image: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """The reference's own way: NumPy draws, scales written out, one image at a time."""
    height, width, _channels = image.shape
    clean = image.numpy() / 255
    share, chains = rng.beta(1, 1), np.zeros_like(clean)
    for weight in rng.dirichlet([1] * 3):
        picture = to_pillow(image)
        for _step in range(rng.integers(1, 4)):
            name, level, sign = NAMES[rng.integers(9)], rng.uniform(0.1, 3), rng.choice([-1, 1])
            parameter = {
                "posterize": 4 - int(level * 4 / 10),
                "solarize": 256 - int(level * 256 / 10),
                "rotate": sign * int(level * 30 / 10),
                "shear_x": sign * level * 0.3 / 10,
                "shear_y": sign * level * 0.3 / 10,
                "translate_x": sign * int(level * width / 3 / 10),
                "translate_y": sign * int(level * height / 3 / 10),
            }.get(name, 0)
            picture = pillow(name, picture, parameter)
        chains += weight * from_pillow(picture).numpy() / 255
    return (1 - share) * clean + share * chains


def test_natural_images_change_as_much_as_by_the_reference():
    images = photographs(1000)
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
    assert torch.equal(first, augmix(images, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, augmix(images, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(augmix(images.permute(0, 3, 1, 2) / 255, 5), first)  # float pixels


def test_images_draw_one_by_one():
    images = random_images(1, 16, 16, 3).expand(64, -1, -1, -1)
    views = augmix(images, 0)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 64


def test_shards_of_a_draw_are_the_draw():
    images = random_images(23, 16, 16, 3)
    draw = AugMix().draw(23, torch.Generator().manual_seed(0))
    whole = mixed(images, draw)
    for world_size, rank in itertools.chain.from_iterable(((n, r) for r in range(n)) for n in (2, 5)):
        assert torch.equal(mixed(images[rank::world_size], draw.shard(rank, world_size)), whole[rank::world_size])


@pytest.mark.parametrize("settings", [{"severity": 0.1}, {"severity": 11}, {"width": 0}, {"depth": 0}, {"depth": -2}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=f"augmix {next(iter(settings))}="):
        AugMix(**settings)


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="int64"):
        augmix(torch.zeros(2, 8, 8, 3, dtype=torch.int64), 0)


@pytest.mark.gpu
def test_gpu_gives_the_same_bytes():
    images = photographs(60)
    draw = AugMix(severity=10).draw(60, torch.Generator().manual_seed(0))
    assert (mixed(images.cuda(), draw).cpu() - mixed(images, draw)).abs().max() < 1e-6
    for position, operation in enumerate(OPERATIONS):
        planes = images.permute(0, 3, 1, 2).contiguous()
        values = parameters(torch.full((60,), position), draw.levels[:, 0, 0], draw.signs[:, 0, 0], 32, 32)
        assert torch.equal(operation(planes.cuda(), values.cuda()).cpu(), operation(planes, values))


@pytest.mark.slow
def test_images_per_second_on_one_thread():
    """pytest -m slow -s tests/data/test_augmix.py"""
    torch.set_num_threads(1)
    images, rng = photographs(128), np.random.default_rng(0)
    fastest = dict.fromkeys(("batched", "one by one"), math.inf)
    for seed in range(20):
        start = time.process_time()
        augmix(images, seed)
        between = time.process_time()
        for image in images[:32]:
            drawn_by_numpy(image, rng)
        for name, seconds in (
            ("batched", (between - start) / 128),
            ("one by one", (time.process_time() - between) / 32),
        ):
            fastest[name] = min(fastest[name], seconds)
    print({name: f"{1 / seconds:,.0f} images/s" for name, seconds in fastest.items()})
    assert fastest["batched"] < fastest["one by one"] / 3
