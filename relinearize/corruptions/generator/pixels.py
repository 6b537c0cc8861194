"""Bytes and pixels in [0, 1], with the rounding of the published files; pixels taken from other places."""

import numpy as np


def to_unit(images: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """uint8 of any shape -> pixels in [0, 1]."""
    return images / dtype(255)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels, clipped to [0, 1] -> uint8. Truncated, not rounded, as the published files were."""
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def gather(images: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """N x H x W x C and, of each pixel, the row-major place in its image it comes from (N x H x W) -> N x H x W x C."""
    number, height, width, channels = images.shape
    first = np.arange(number)[:, None, None] * (height * width)
    return images.reshape(-1, channels).take(sources + first, axis=0)
