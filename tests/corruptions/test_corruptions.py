"""The corruption generator against straight-line formulas, Pillow and SciPy, and what it promises of its randomness."""

import colorsys
import io
import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from relinearize.corruptions.constants import CIFAR, CORRUPTIONS, EXTRA, NUMBERS, SEVERITIES, TINY
from relinearize.corruptions.files import CorruptionFiles
from relinearize.corruptions.generated import GeneratedCorruptions
from relinearize.corruptions.generator.blur import blur_motion, disc, motion_kernel, shuffled_sources
from relinearize.corruptions.generator.digital import displaced
from relinearize.corruptions.generator.generate import blocks, generate
from relinearize.corruptions.generator.pixels import image_streams
from relinearize.corruptions.generator.weather import plasma
from relinearize.corruptions.photographs import Photographs
from relinearize.data.decoding import CentralCrop, EncodedImages
from relinearize.errors import UserError


def scenes(number: int, height: int = 32, width: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth colours with a few edges, mean about 120 and deviation about 55, as photographs have."""
    draw = np.random.default_rng(5)
    fields = ndimage.gaussian_filter(draw.normal(size=(number, height, width, channels)), (0, 5, 5, 0), mode="wrap")
    fields -= fields.mean(axis=(1, 2, 3), keepdims=True)
    fields /= np.maximum(fields.std(axis=(1, 2, 3), keepdims=True), 1e-9)
    edges = ndimage.gaussian_filter(draw.normal(size=(number, height, width, 1)), (0, 3, 3, 0)) > 0
    return np.clip(120 + 40 * fields + 45 * np.where(edges, 1, -1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    """Stand-ins made for the test: bright noise at the size of the published ones."""
    folder = tmp_path_factory.mktemp("frost")
    draw = np.random.default_rng(6)
    for index in range(2):
        picture = draw.integers(60, 256, size=(400, 500, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"ice{index}.png")
    return Photographs(folder)


def change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(after.astype(int) - before).mean())


# Mean absolute change, of 255, at severities 1 and 5, and whether it grows with the severity. Why these ranges:
# Gaussian noise: 0.8 sigma, that is 8 and 20; shot: about 0.8 sqrt(0.47 / photons); impulse: half of all values times
# the share; speckle: 0.8 sigma 0.47. Brightness adds 13 and 76 to the largest channel, less to the others. Contrast
# removes a quarter and 85 % of the mean distance to the mean (about 45). Blurs and compression take away detail, of
# which these scenes have little. Fog pulls towards its own brightness. Glass (two rounds from severity 4), motion (a
# longer but not a stronger line), elastic (weaker maps, finer shifts), spatter (water, then mud) and saturate (less,
# then more colour) are not ordered by design; frost's weights are only nearly so.
EXPECTED = {
    "gaussian_noise": (7, 9, 17, 22, True),
    "shot_noise": (5, 8, 15, 22, True),
    "impulse_noise": (0.9, 1.7, 7, 11, True),
    "defocus_blur": (0.3, 3, 2, 12, True),
    "glass_blur": (2, 14, 4, 22, False),
    "motion_blur": (2, 12, 4, 20, False),
    "zoom_blur": (2, 12, 5, 22, True),
    "snow": (6, 20, 35, 75, True),
    "frost": (20, 45, 25, 75, False),
    "fog": (5, 18, 25, 60, True),
    "brightness": (8, 13, 40, 76, True),
    "contrast": (8, 15, 28, 48, True),
    "elastic_transform": (8, 35, 4, 25, False),
    "pixelate": (0.5, 4, 3, 12, True),
    "jpeg_compression": (1, 7, 3, 12, True),
    "speckle_noise": (4, 8, 14, 24, True),
    "gaussian_blur": (0.3, 3, 2, 12, True),
    "spatter": (0.3, 4, 1, 12, False),
    "saturate": (6, 30, 6, 60, False),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_strength_of_each_severity(name: str, photographs: Photographs) -> None:
    images = scenes(24)
    changes = [change(images, generate(images, name, severity, photographs=photographs)) for severity in SEVERITIES]
    low_1, high_1, low_5, high_5, ordered = EXPECTED[name]
    assert low_1 <= changes[0] <= high_1, changes
    assert low_5 <= changes[-1] <= high_5, changes
    if ordered:
        assert changes == sorted(changes) and len(set(changes)) == 5, changes


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_its_sigma(severity: int) -> None:
    """On grey of 128 nothing is cut off, except for one value in 10^7."""
    images = np.full((16, 32, 32, 3), 128, np.uint8)
    grey = 128 / 255

    def deviation(name: str) -> float:
        noise = generate(images, name, severity).astype(float) - 128
        assert abs(noise.mean() + 0.5) < 0.5, "truncation costs half a level"
        assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05, "channels are independent"
        return noise.std() / 255

    assert deviation("gaussian_noise") == pytest.approx(CIFAR["gaussian_noise"][severity - 1], rel=0.02)
    assert deviation("speckle_noise") == pytest.approx(CIFAR["speckle_noise"][severity - 1] * grey, rel=0.02)
    assert deviation("shot_noise") == pytest.approx(math.sqrt(grey / CIFAR["shot_noise"][severity - 1]), rel=0.02)

    impulse = generate(images, "impulse_noise", severity)
    share = CIFAR["impulse_noise"][severity - 1]
    assert np.mean(impulse == 0) == pytest.approx(share / 2, rel=0.2)
    assert np.mean(impulse == 255) == pytest.approx(share / 2, rel=0.2)
    assert np.mean(impulse == 128) == pytest.approx(1 - share, abs=0.01)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("constants", ["cifar", "tiny"])
def test_jpeg_and_pixelate_are_pillows(channels: int, constants: str) -> None:
    images = scenes(2, 20, 28, channels)
    table = {"cifar": CIFAR, "tiny": TINY}[constants]
    for severity in (1, 5):
        jpeg = generate(images, "jpeg_compression", severity, constants=constants)
        pixels = generate(images, "pixelate", severity, constants=constants)
        for row, image in enumerate(images):
            picture = Image.fromarray(image[..., 0] if channels == 1 else image)
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=table["jpeg_compression"][severity - 1])
            np.testing.assert_array_equal(jpeg[row].squeeze(), np.asarray(Image.open(file)))
            scale = table["pixelate"][severity - 1]
            small = picture.resize((int(28 * scale), int(20 * scale)), Image.Resampling.BOX)
            np.testing.assert_array_equal(
                pixels[row].squeeze(), np.asarray(small.resize((28, 20), Image.Resampling.BOX))
            )


def hsv_by_hand(images: np.ndarray, alter) -> np.ndarray:
    """Pixel by pixel through the standard library's HSV."""
    result = np.empty_like(images)
    for place in np.ndindex(images.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[place] / 255))
        pixel = np.array(colorsys.hsv_to_rgb(hue, *alter(saturation, value)))
        result[place] = (np.clip(pixel, 0, 1) * 255).astype(np.uint8)
    return result


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_brightness_contrast_and_saturation_are_the_formulas(severity: int) -> None:
    images = scenes(2, 8, 9)
    images[0, 0, :3] = [[0, 0, 0], [255, 255, 255], [77, 77, 77]]  # greys have no hue, black no saturation
    added = CIFAR["brightness"][severity - 1]
    factor, plus = CIFAR["saturate"][severity - 1]
    by_hand = {
        "brightness": hsv_by_hand(images, lambda s, v: (s, min(v + added, 1))),
        "saturate": hsv_by_hand(images, lambda s, v: (min(max(s * factor + plus, 0), 1), v)),
    }
    pixels = images / 255
    means = np.stack([np.full(pixels.shape[1:], image.mean(axis=(0, 1))) for image in pixels])
    contrasted = (pixels - means) * CIFAR["contrast"][severity - 1] + means
    by_hand["contrast"] = (np.clip(contrasted, 0, 1) * 255).astype(np.uint8)
    for name, expected in by_hand.items():
        difference = np.abs(generate(images, name, severity).astype(int) - expected)
        # A value that is a whole level may come out a rounding below it, and is then truncated.
        assert difference.max() <= 1, name
        assert (difference > 0).mean() < 0.06, name


def test_defocus_is_a_softened_disc() -> None:
    for radius, softness in CIFAR["defocus_blur"] + TINY["defocus_blur"]:
        kernel = disc(radius, softness)
        assert kernel.sum() == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1].T, atol=1e-7)
    cross = disc(1, 0.01)  # radius 1: a pixel and its four neighbours
    assert np.count_nonzero(cross > 1e-6) == 5 and cross.max() == pytest.approx(0.2)
    dot = np.zeros((1, 9, 9, 1), np.uint8)
    dot[0, 4, 4] = 255
    blurred = generate(dot, "defocus_blur", 4, constants="cifar")[0, ..., 0]
    assert np.count_nonzero(blurred[2:7, 2:7]) == np.count_nonzero(blurred) > 4


def test_zoom_blur_is_the_mean_of_zooms() -> None:
    images = scenes(2, 15, 20)
    for severity in (1, 5):
        factors = np.arange(1, CIFAR["zoom_blur"][severity - 1], 0.01)
        for row, image in enumerate(images / 255):
            total = image.copy()
            for factor in factors:
                starts = [(size - math.ceil(size / factor)) // 2 for size in image.shape[:2]]
                ends = [start + math.ceil(size / factor) for start, size in zip(starts, image.shape[:2], strict=True)]
                zoomed = ndimage.zoom(image[starts[0] : ends[0], starts[1] : ends[1]], (factor, factor, 1), order=1)
                cut = [(zoomed.shape[axis] - image.shape[axis]) // 2 for axis in (0, 1)]
                total += zoomed[cut[0] : cut[0] + 15, cut[1] : cut[1] + 20]
            expected = total / (len(factors) + 1) * 255
            found = generate(images[row : row + 1], "zoom_blur", severity)[0]
            assert ((found <= expected + 1e-6) & (found > expected - 1 - 1e-6)).all()


@pytest.mark.parametrize(("reach", "rounds"), [(1, 1), (1, 2), (2, 2)])
def test_glass_copies_neighbours_as_the_published_loop(reach: int, rounds: int) -> None:
    height, width = 9, 11
    sources = shuffled_sources(height, width, reach, rounds, image_streams(3, "glass_blur", 1, [7]))[0]
    stream = image_streams(3, "glass_blur", 1, [7])[0]
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    shifts = stream.integers(-reach, reach, size=(rounds, len(rows), len(columns), 2))
    image = np.arange(height * width).reshape(height, width, 1)
    for turn in range(rounds):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                other = row + shifts[turn, i, j, 0], column + shifts[turn, i, j, 1]
                # Meant as a swap; both sides are views, so only the first is changed.
                image[row, column], image[other] = image[other], image[row, column]
    np.testing.assert_array_equal(sources, image[..., 0])
    assert len(np.unique(sources)) < height * width


def test_motion_is_half_a_gaussian_along_a_line() -> None:
    kernel, anchor = motion_kernel(6, 2, 0)
    steps = np.arange(13)
    expected = np.exp(-(steps**2) / 8)
    np.testing.assert_allclose(kernel, [expected / expected.sum()], rtol=1e-6)
    assert anchor == (0, 0)
    kernel, anchor = motion_kernel(6, 2, -90)
    assert kernel.shape == (13, 1) and anchor == (0, 12) and kernel[12, 0] == kernel.max()

    image = scenes(1, 10, 12)[0]
    for angle in (-120, -30, 0, 17, 45):
        weights = np.exp(-(np.arange(19) ** 2) / (2 * 2.5**2))
        by_hand = np.zeros(image.shape)
        for row, column in np.ndindex(10, 12):
            for step, weight in enumerate(weights / weights.sum()):
                across = math.ceil(step * math.cos(math.radians(angle)) - 0.5)
                down = math.ceil(step * math.sin(math.radians(angle)) - 0.5)
                by_hand[row, column] += weight * image[min(max(row + down, 0), 9), min(max(column + across, 0), 11)]
        assert (blur_motion(image, 9, 2.5, angle) != np.floor(by_hand + 0.5 / 257)).mean() < 0.01, angle
    even = np.full((12, 12), 100, np.uint8)
    assert (blur_motion(even, 9, 2.5, 20) == 100).all(), "16 bits in between: no level is lost to rounding"


def test_elastic_shifts_are_scipys() -> None:
    draw = np.random.default_rng(1)
    pixels = draw.random((2, 9, 7, 3))
    down, right = draw.uniform(-12, 12, size=(2, 2, 9, 7))
    found = displaced(pixels, down, right)
    rows, columns = np.mgrid[:9, :7]
    for image, channel in np.ndindex(2, 3):
        places = [rows + down[image], columns + right[image]]
        expected = ndimage.map_coordinates(pixels[image, ..., channel], places, order=1, mode="reflect")
        np.testing.assert_allclose(found[image, ..., channel], expected, atol=1e-12)


def test_fog_is_diamond_square() -> None:
    streams = image_streams(0, "fog", 1, [4])
    first, second, third = image_streams(0, "fog", 1, [4])[0].uniform(-1, 1, size=3) * 100**2
    by_hand = np.array([[0, first / 2 + second], [first / 2 + third, first]])
    by_hand = (by_hand - by_hand.min()) / (by_hand.max() - by_hand.min())
    np.testing.assert_allclose(plasma(2, 3, streams)[0], by_hand)

    rough, smooth = (plasma(20, decay, image_streams(0, "fog", 1, range(8))) for decay in (1.5, 3))
    assert rough.shape == (8, 32, 32)
    assert rough.min() == 0 and rough.max() == 1
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()
    black = np.zeros((1, 32, 32, 3), np.uint8)
    assert generate(black, "fog", 5).max() == 0, "scaled to the image's own brightest value"


def test_snow_frost_and_spatter_look_as_described(tmp_path) -> None:
    black = np.zeros((4, 32, 32, 3), np.uint8)
    snow = generate(black, "snow", 3).astype(int)
    assert (snow == snow[:, ::-1, ::-1]).all() and snow.std() > 5, "flakes and their half turn"
    assert (snow[..., 0] == snow[..., 1]).all() and snow.min() >= int(0.1 * 0.5 * 255), "whitened by (1 - 0.9) / 2"

    Image.fromarray(np.full((300, 300, 3), (40, 80, 120), np.uint8)).save(tmp_path / "even.png")
    images = scenes(3).astype(int)
    frosted = generate(scenes(3), "frost", 3, photographs=Photographs(tmp_path))
    expected = np.clip(0.9 * images + 0.4 * np.array([40, 80, 120]), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(frosted, expected)

    water, mud = (generate(scenes(3), "spatter", severity).astype(int) for severity in (2, 5))
    assert (water >= images - 1).all() and (water > images + 20).any(), "drops shine"
    muddy = np.abs(mud - images).max(-1) > 1
    assert 0.005 < muddy.mean() < 0.3, "mud covers some places and leaves the rest"


@pytest.mark.parametrize("name", NUMBERS)
def test_an_image_is_corrupted_alike_in_any_company(name: str, photographs: Photographs, monkeypatch) -> None:
    images = scenes(9, 16, 16)
    before = np.random.get_state()[1].copy()
    whole = generate(images, name, 4, seed=2, photographs=photographs)
    assert (np.random.get_state()[1] == before).all(), "NumPy's global stream is left alone"
    assert whole.dtype == np.uint8 and whole.shape == images.shape
    np.testing.assert_array_equal(whole, generate(images, name, 4, seed=2, photographs=photographs))
    rows = np.array([7, 2, 3])
    some = generate(images[rows], name, 4, seed=2, positions=rows, photographs=photographs)
    np.testing.assert_array_equal(some, whole[rows])
    monkeypatch.setattr("relinearize.corruptions.generator.generate.BLOCK_VALUES", 4 * 16 * 16 * 3)
    assert len(list(blocks(images.shape))) == 3
    np.testing.assert_array_equal(whole, generate(images, name, 4, seed=2, photographs=photographs))
    fixed = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    other = generate(images, name, 4, seed=3, photographs=photographs)
    assert (other == whole).all() == (name in fixed | {"gaussian_blur", "saturate"})


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (1, 1, 1), (70, 40, 3)])
def test_any_size_and_grey(shape: tuple[int, int, int], photographs: Photographs) -> None:
    images = scenes(2, *shape)
    for name in NUMBERS:
        if name == "saturate" and shape[-1] == 1:
            with pytest.raises(UserError, match="saturate needs images of three channels"):
                generate(images, name, 5)
            continue
        for constants in ("cifar", "tiny"):
            after = generate(images, name, 5, constants=constants, photographs=photographs)
            assert after.shape == images.shape
            if min(shape[:2]) > 4:
                assert (after != images).any(), (name, constants)


def test_tiny_constants_are_stronger() -> None:
    images = scenes(3, 64, 64)
    for name in ("gaussian_noise", "contrast", "jpeg_compression", "pixelate"):
        cifar, tiny = (generate(images, name, 5, constants=constants) for constants in ("cifar", "tiny"))
        assert change(images, tiny) > 1.1 * change(images, cifar), name
    assert set(CIFAR) == set(TINY) == set(CORRUPTIONS) | set(EXTRA)
    assert all(len(table[name]) == 5 for table in (CIFAR, TINY) for name in table)


def test_errors_name_what_is_wrong(tmp_path, photographs: Photographs) -> None:
    images = scenes(1, 8, 8)
    for name, severity, constants, message in (
        ("rain", 1, "cifar", "corruption=rain is unknown; valid: gaussian_noise"),
        ("snow", 6, "cifar", "severity=6 is unknown; valid: 1, 2, 3, 4, 5"),
        ("snow", 1, "imagenet", r"corruptions\.constants=imagenet is unknown; valid: cifar, tiny"),
        ("frost", 1, "cifar", r"needs photographs of frost: corruptions\.frost_images=FOLDER"),
    ):
        with pytest.raises(UserError, match=message):
            generate(images, name, severity, constants=constants)
    with pytest.raises(ValueError, match="not uint8"):
        generate(images / 255, "snow", 1)
    with pytest.raises(UserError, match=r"frost_images=.*absent: no such folder"):
        Photographs(tmp_path / "absent")
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "frost1.png").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"frost1\.png: cannot be decoded"):
        GeneratedCorruptions(images, np.zeros(1), frost_images=torn)
    with pytest.raises(UserError, match=r"corruptions\.frost_images=1 is no path"):
        Photographs(1)
    with pytest.raises(UserError, match=r"corruptions\.folder=2024 is no path"):
        CorruptionFiles(images, np.zeros(1), ["cat"], folder=2024)
    with pytest.raises(UserError, match="holds no photograph"):
        Photographs(tmp_path)
    (tmp_path / "ice.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"ice\.png: cannot be decoded"):
        generate(images, "frost", 1, photographs=Photographs(tmp_path))
    Image.fromarray(np.zeros((30, 200, 3), np.uint8)).save(tmp_path / "ice.png")
    with pytest.raises(UserError, match=r"200 x 30 pixels are too few; made 0\.2 times as large"):
        generate(images, "frost", 1, photographs=Photographs(tmp_path))


def test_only_the_images_that_are_asked_for_are_decoded() -> None:
    pictures = scenes(4, 8, 8)

    class Encoded(EncodedImages):
        def image(self, position: int) -> Image.Image:
            assert position < 2
            return Image.fromarray(pictures[position])

        def name(self, position: int) -> str:
            return str(position)

    encoded = GeneratedCorruptions(Encoded(4, CentralCrop(8)), np.arange(4))
    decoded = GeneratedCorruptions(pictures, np.arange(4))
    for found, wanted in zip(encoded.images("snow", 3, [0, 1]), decoded.images("snow", 3, [0, 1]), strict=True):
        assert np.array_equal(found, wanted)


def test_only_five_of_the_published_photographs_are_drawn(tmp_path) -> None:
    names = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg", "frost6.jpg")
    for level, name in enumerate(names):
        Image.fromarray(np.full((9, 9, 3), 20 * level, np.uint8)).save(tmp_path / name)
    first = Photographs(tmp_path)
    assert [path.name for path in first.files][-1] == "frost5.jpg" and len(first.files) == 5
    digest = first.sha256
    (tmp_path / "frost5.jpg").unlink()
    assert len(Photographs(tmp_path).files) == 5, "not the published ones: all that are there"
    assert Photographs(tmp_path).sha256 != digest
