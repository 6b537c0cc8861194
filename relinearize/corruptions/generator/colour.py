"""Brightness, contrast and saturation.

Brightness and saturation are meant in HSV. A channel there is v (1 - s d), where d, from 0 for the largest channel to 1
for the smallest, is the hue: so v and s are changed without going through hues and back.
"""

import numpy as np

from relinearize.corruptions.generator.pixels import to_bytes, to_unit
from relinearize.errors import UserError


def brightness(images: np.ndarray, added: float) -> np.ndarray:
    """`added` to HSV's value."""
    pixels = to_unit(images)
    if images.shape[-1] == 1:
        return to_bytes(pixels + added)
    value, saturation, depth = _value_saturation_depth(pixels)
    return to_bytes(np.clip(value + added, 0, 1) * (1 - saturation * depth))


def saturate(images: np.ndarray, strength: tuple[float, float]) -> np.ndarray:
    """HSV's saturation times a factor, plus a number. Grey pixels count as red ones of saturation 0, as published."""
    if images.shape[-1] == 1:
        raise UserError("corruption saturate needs images of three channels: grey ones have no saturation")
    factor, added = strength
    value, saturation, depth = _value_saturation_depth(to_unit(images))
    return to_bytes(value * (1 - np.clip(saturation * factor + added, 0, 1) * depth))


def contrast(images: np.ndarray, factor: float) -> np.ndarray:
    """Distances to each image's own mean, channel by channel, times a factor."""
    pixels = to_unit(images)
    means = pixels.mean(axis=(1, 2), keepdims=True)
    return to_bytes((pixels - means) * factor + means)


def _value_saturation_depth(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(v and s, N x H x W x 1; d, N x H x W x 3) of pixels N x H x W x 3 in [0, 1]."""
    value = pixels.max(-1, keepdims=True)
    spread = value - pixels.min(-1, keepdims=True)
    saturation = np.divide(spread, value, out=np.zeros_like(value), where=value > 0)
    red = np.broadcast_to(np.array([0.0, 1.0, 1.0]), pixels.shape).copy()  # the hue of grey pixels
    depth = np.divide(value - pixels, spread, out=red, where=spread > 0)
    return value, saturation, depth
