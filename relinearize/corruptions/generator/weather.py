"""Snow, frost, fog, and spatter: drops of water on the lens, or mud."""

import cv2
import numpy as np

from relinearize.corruptions.generator.blur import apply, blur_motion, smoothed, zoom_matrix
from relinearize.corruptions.generator.pixels import Streams, to_bytes, to_unit
from relinearize.corruptions.photographs import Photographs

GREY = np.array([0.299, 0.587, 0.114])  # shares of red, green and blue in brightness
WATER = np.array([175, 238, 238]) / 255  # pale turquoise
MUD = np.array([63, 42, 20]) / 255
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)  # light from the upper left


def snow(images: np.ndarray, strength: tuple[float, ...], streams: Streams) -> np.ndarray:
    """Flakes (bright noise, enlarged, in motion) from above and, turned by half a turn, below; the scene whitened."""
    mean, deviation, enlarged, threshold, radius, sigma, share = strength
    number, height, width, _ = images.shape
    flakes = np.empty((number, height, width, 1))
    angles = np.empty(number)
    for image, stream in enumerate(streams):
        flakes[image] = stream.normal(mean, deviation, size=(height, width, 1))
        angles[image] = stream.uniform(-135, -45)
    flakes = apply(zoom_matrix(height, width, enlarged), flakes)
    flakes[flakes < threshold] = 0
    moved = [blur_motion(one, radius, sigma, angle) for one, angle in zip(to_bytes(flakes), angles, strict=True)]
    layer = to_unit(np.stack(moved))
    pixels = to_unit(images)
    whitened = np.maximum(pixels, grey(pixels) * 1.5 + 0.5)
    return to_bytes(share * pixels + (1 - share) * whitened + layer + np.rot90(layer, k=2, axes=(1, 2)))


def frost(
    images: np.ndarray, strength: tuple[float, float, float], streams: Streams, photographs: Photographs
) -> np.ndarray:
    """A crop of a photograph of frost, added."""
    kept, added, scale = strength
    height, width, channels = images.shape[1:]
    textures = photographs.textures(scale, height, width, channels)
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


def spatter(images: np.ndarray, strength: tuple[float, ...], streams: Streams) -> np.ndarray:
    """Liquid where smoothed noise is above a threshold. On grey images its colour is grey too."""
    mean, deviation, smoothness, threshold, last, muddy = strength
    shape = images.shape[1:3]
    liquid = np.stack([stream.normal(mean, deviation, size=(*shape, 1)) for stream in streams])
    liquid = smoothed(liquid, smoothness)
    pixels = to_unit(images)
    colour = MUD if muddy else WATER
    if images.shape[-1] == 1:
        colour = grey(colour)
    if muddy:
        opaque = smoothed((liquid > threshold).astype(np.float64), last)
        opaque[opaque < 0.8] = 0
        return to_bytes(pixels * (1 - opaque) + opaque * colour)
    liquid[liquid < threshold] = 0
    shine = np.stack([water_relief(layer) for layer in (liquid * 255).astype(np.uint8)[..., 0]])
    return to_bytes(pixels + last * shine[..., None] * colour)


def water_relief(liquid: np.ndarray) -> np.ndarray:
    """Where drops shine: float32 in [0, 1], H x W, from the height of the liquid, uint8 H x W. All 0 without liquid.

    The published recipe: distance from the drops' rims, cut at 20 pixels, smoothed, equalised, lit from one side.
    """
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    lit = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, RELIEF)
    shine = liquid * cv2.blur(lit, (3, 3)).astype(np.float32)
    return shine / max(float(shine.max()), 1.0)
