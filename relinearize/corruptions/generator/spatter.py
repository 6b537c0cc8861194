"""Spatter: drops of water on the lens, or mud."""

import cv2
import numpy as np
from scipy import ndimage

from relinearize.corruptions.generator.pixels import to_bytes, to_unit
from relinearize.corruptions.generator.streams import Streams
from relinearize.corruptions.generator.weather import grey

WATER = np.array([175, 238, 238]) / 255  # pale turquoise
MUD = np.array([63, 42, 20]) / 255
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)  # light from the upper left


def spatter(images: np.ndarray, strength: tuple[float, ...], streams: Streams) -> np.ndarray:
    """Liquid where smoothed noise is above a threshold. On grey images its colour is grey too."""
    mean, deviation, smoothness, threshold, last, muddy = strength
    shape = images.shape[1:3]
    liquid = np.stack([stream.normal(mean, deviation, size=shape) for stream in streams])
    liquid = _smooth(liquid, smoothness)
    pixels = to_unit(images)
    if muddy:
        opaque = _smooth((liquid > threshold).astype(np.float64), last)
        opaque[opaque < 0.8] = 0
        opaque = opaque[..., None]
        return to_bytes(pixels * (1 - opaque) + opaque * _colour(MUD, images.shape[-1]))
    liquid[liquid < threshold] = 0
    shine = np.stack([water_relief(layer) for layer in (liquid * 255).astype(np.uint8)])
    return to_bytes(pixels + last * shine[..., None] * _colour(WATER, images.shape[-1]))


def water_relief(liquid: np.ndarray) -> np.ndarray:
    """Where drops shine: float32 in [0, 1], H x W, from the height of the liquid, uint8 H x W. All 0 without liquid.

    The published recipe: distance from the drops' rims, cut at 20 pixels, smoothed, equalised, lit from one side.
    """
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    lit = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, RELIEF)
    shine = liquid * cv2.blur(lit, (3, 3)).astype(np.float32)
    return shine / max(float(shine.max()), 1.0)


def _colour(colour: np.ndarray, channels: int) -> np.ndarray:
    return colour if channels == 3 else grey(colour)


def _smooth(layers: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(layers, (0, sigma, sigma), mode="nearest", truncate=4.0)
