"""Gaussian, shot, impulse and speckle noise. Each value (pixel and channel) is drawn on its own."""

import numpy as np

from relinearize.corruptions.generator.pixels import Streams, to_bytes, to_unit


def gaussian_noise(images: np.ndarray, sigma: float, streams: Streams) -> np.ndarray:
    return to_bytes(to_unit(images, np.float32) + np.float32(sigma) * _drawn("standard_normal", images.shape, streams))


def speckle_noise(images: np.ndarray, sigma: float, streams: Streams) -> np.ndarray:
    """Normal noise whose deviation is `sigma` times the pixel."""
    drawn = _drawn("standard_normal", images.shape, streams)
    return to_bytes(to_unit(images, np.float32) * (1 + np.float32(sigma) * drawn))


def shot_noise(images: np.ndarray, photons: float, streams: Streams) -> np.ndarray:
    """Poisson counts of light, `photons` expected at a white pixel."""
    expected = to_unit(images) * photons
    counts = np.stack([stream.poisson(light) for stream, light in zip(streams, expected, strict=True)])
    return to_bytes(counts / photons)


def impulse_noise(images: np.ndarray, share: float, streams: Streams) -> np.ndarray:
    """Salt and pepper: `share` of the values, half of them 0 and half 255."""
    drawn = _drawn("random", images.shape, streams)
    corrupted = np.where(drawn < share, np.uint8(255), images)
    corrupted[drawn < share / 2] = 0
    return corrupted


def _drawn(method: str, shape: tuple[int, ...], streams: Streams) -> np.ndarray:
    """By this method of the generators."""
    drawn = np.empty(shape, np.float32)
    for stream, out in zip(streams, drawn, strict=True):
        getattr(stream, method)(out=out, dtype=np.float32)
    return drawn
