"""Defocus, glass, motion, zoom and Gaussian blur."""

import cv2
import numpy as np
from scipy import ndimage

from relinearize.corruptions.generator.motion import blur_motion
from relinearize.corruptions.generator.pixels import gather, to_bytes, to_unit
from relinearize.corruptions.generator.streams import Streams
from relinearize.corruptions.generator.zooming import apply, zoom_blur_matrix


def defocus_blur(images: np.ndarray, strength: tuple[float, float]) -> np.ndarray:
    """Every point becomes a disc; mirrored at the edges."""
    kernel = disc(*strength)
    return to_bytes(np.stack([cv2.filter2D(image, -1, kernel).reshape(image.shape) for image in to_unit(images)]))


def disc(radius: float, softness: float) -> np.ndarray:
    """Square odd-sized float32 kernel of sum 1: a disc on the pixel grid, softened by a 3 x 3 Gaussian.

    Radii below 1 leave one pixel, so there the softening is all of the blur.
    """
    reach = int(radius) + 1  # one more than the disc, for its softened edge
    line = np.arange(-reach, reach + 1)
    inside = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float32)
    return cv2.GaussianBlur(inside / inside.sum(), (3, 3), sigmaX=softness, borderType=cv2.BORDER_CONSTANT)


def gaussian_blur(images: np.ndarray, sigma: float) -> np.ndarray:
    return to_bytes(_smooth(to_unit(images), sigma))


def glass_blur(images: np.ndarray, strength: tuple[float, int, int], streams: Streams) -> np.ndarray:
    """Pixels shifted at random between two Gaussian blurs."""
    sigma, reach, rounds = strength
    pixels = to_bytes(_smooth(to_unit(images), sigma))
    shuffled = gather(pixels, shuffled_sources(*images.shape[1:3], reach, rounds, streams))
    return to_bytes(_smooth(to_unit(shuffled), sigma))


def shuffled_sources(height: int, width: int, reach: int, rounds: int, streams: Streams) -> np.ndarray:
    """From which pixel each takes its colour: int64, N x H x W of row-major places.

    `rounds` times, from the last row and column to the first, a pixel copies one that lies -reach .. reach - 1 rows and
    columns away. The published code means to swap the two, but assigns views of one array, so only one of them changes.
    """
    sources = np.tile(np.arange(height * width).reshape(height, width), (len(streams), 1, 1))
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    if not len(rows) or not len(columns):
        return sources
    shape = (rounds, len(rows), len(columns), 2)
    shifts = np.stack([stream.integers(-reach, reach, size=shape) for stream in streams])
    image = np.arange(len(streams))
    for turn in range(rounds):
        to_rows = rows[:, None] + shifts[:, turn, ..., 0]
        to_columns = columns + shifts[:, turn, ..., 1]
        if reach == 1:  # neighbours above and to the left: none of them has been changed yet
            sources[:, rows[:, None], columns] = sources[image[:, None, None], to_rows, to_columns]
            continue
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                sources[:, row, column] = sources[image, to_rows[:, i, j], to_columns[:, i, j]]
    return sources


def motion_blur(images: np.ndarray, strength: tuple[float, float], streams: Streams) -> np.ndarray:
    """Along a line at most 45 degrees from the horizontal."""
    angles = [stream.uniform(-45, 45) for stream in streams]
    return np.stack([blur_motion(image, *strength, angle) for image, angle in zip(images, angles, strict=True)])


def zoom_blur(images: np.ndarray, upper: float) -> np.ndarray:
    return to_bytes(apply(zoom_blur_matrix(*images.shape[1:3], upper), to_unit(images)))


def _smooth(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian over the rows and columns of N x H x W x C, cut at 4 sigma; beyond the edges the edge goes on."""
    return ndimage.gaussian_filter(pixels, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)
