"""Snow, frost and fog."""

from collections.abc import Sequence

import numpy as np

from relinearize.corruptions.generator.motion import blur_motion
from relinearize.corruptions.generator.pixels import to_bytes, to_unit
from relinearize.corruptions.generator.streams import Streams
from relinearize.corruptions.generator.zooming import zoom

GREY = np.array([0.299, 0.587, 0.114])  # shares of red, green and blue in brightness


def snow(images: np.ndarray, strength: tuple[float, ...], streams: Streams) -> np.ndarray:
    """Flakes (bright noise, enlarged, in motion) from above and, turned by half a turn, below; the scene whitened."""
    mean, deviation, enlarged, threshold, radius, sigma, share = strength
    number, height, width, _ = images.shape
    flakes = np.empty((number, height, width, 1))
    angles = np.empty(number)
    for image, stream in enumerate(streams):
        flakes[image] = stream.normal(mean, deviation, size=(height, width, 1))
        angles[image] = stream.uniform(-135, -45)
    flakes = zoom(flakes, enlarged)
    flakes[flakes < threshold] = 0
    moved = [blur_motion(one, radius, sigma, angle) for one, angle in zip(to_bytes(flakes), angles, strict=True)]
    layer = to_unit(np.stack(moved))
    pixels = to_unit(images)
    whitened = np.maximum(pixels, grey(pixels) * 1.5 + 0.5)
    return to_bytes(share * pixels + (1 - share) * whitened + layer + np.rot90(layer, k=2, axes=(1, 2)))


def frost(
    images: np.ndarray, strength: tuple[float, float, float], streams: Streams, textures: Sequence[np.ndarray]
) -> np.ndarray:
    """A crop of a photograph of frost, added. textures: uint8, each larger than the images, with as many channels."""
    kept, added, _ = strength
    height, width = images.shape[1:3]
    crops = []
    for stream in streams:
        texture = textures[stream.integers(len(textures))]
        top = stream.integers(texture.shape[0] - height)
        left = stream.integers(texture.shape[1] - width)
        crops.append(texture[top : top + height, left : left + width])
    return np.clip(kept * images + added * np.stack(crops), 0, 255).astype(np.uint8)


def fog(images: np.ndarray, strength: tuple[float, float], streams: Streams) -> np.ndarray:
    """A plasma cloud added; then darkened so that the brightest value of the image is the limit again."""
    thickness, decay = strength
    height, width = images.shape[1:3]
    pixels = to_unit(images)
    brightest = pixels.max(axis=(1, 2, 3), keepdims=True)
    clouds = plasma(max(height, width), decay, streams)[:, :height, :width, None]
    return to_bytes((pixels + thickness * clouds) * brightest / (brightest + thickness))


def plasma(size: int, decay: float, streams: Streams) -> np.ndarray:
    """Diamond-square clouds on a torus, N x P x P in [0, 1], P the power of two from `size` on.

    The grid is doubled until it has that size: a new point is the mean of the four around it plus a uniform number up
    to roughness^2, where the roughness begins at 100 and is divided by `decay` at each doubling.
    """
    side = 1 << max(0, size - 1).bit_length()
    grid = np.zeros((len(streams), 1, 1))
    drawn = np.stack([stream.uniform(-1, 1, size=side * side - 1) for stream in streams])
    roughness, used = 100.0, 0
    while (points := grid.shape[1]) < side:
        new = drawn[:, used : used + 3 * points**2].reshape(-1, 3, points, points) * roughness**2
        used += 3 * points**2
        across, down = grid + np.roll(grid, -1, axis=2), grid + np.roll(grid, -1, axis=1)
        middles = (across + np.roll(across, -1, axis=1)) / 4 + new[:, 0]
        finer = np.empty((len(streams), 2 * points, 2 * points))
        finer[:, ::2, ::2] = grid
        finer[:, 1::2, 1::2] = middles
        finer[:, ::2, 1::2] = (across + middles + np.roll(middles, 1, axis=1)) / 4 + new[:, 1]
        finer[:, 1::2, ::2] = (down + middles + np.roll(middles, 1, axis=2)) / 4 + new[:, 2]
        grid = finer
        roughness /= decay
    grid -= grid.min(axis=(1, 2), keepdims=True)
    highest = grid.max(axis=(1, 2), keepdims=True)
    return np.divide(grid, highest, out=np.zeros_like(grid), where=highest > 0)  # one pixel has no cloud


def grey(pixels: np.ndarray) -> np.ndarray:
    """Brightness, N x H x W x 1, of pixels with one or three channels."""
    return pixels if pixels.shape[-1] == 1 else pixels @ GREY[:, None]
