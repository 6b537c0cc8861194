"""Defocus, glass, motion, zoom and Gaussian blur.

Motion is half a Gaussian along a line, from the pixel on in one direction: the published files were made with
ImageMagick's MotionBlurImage; the taps, their places and the rounding are that function's. A zoom interpolates
bilinearly, which is linear in the pixels: the mean of 26 zooms is one sparse matrix, and a batch one product.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
from scipy import ndimage, sparse

from relinearize.corruptions.generator.pixels import Streams, to_bytes, to_unit


def defocus_blur(images: np.ndarray, strength: tuple[float, float], _: Streams) -> np.ndarray:
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


def gaussian_blur(images: np.ndarray, sigma: float, _: Streams) -> np.ndarray:
    return to_bytes(smoothed(to_unit(images), sigma))


def glass_blur(images: np.ndarray, strength: tuple[float, int, int], streams: Streams) -> np.ndarray:
    """Pixels shifted at random between two Gaussian blurs."""
    sigma, reach, rounds = strength
    pixels = to_bytes(smoothed(to_unit(images), sigma))
    places = shuffled_sources(*images.shape[1:3], reach, rounds, streams).reshape(len(images), -1, 1)
    shuffled = np.take_along_axis(pixels.reshape(len(images), -1, images.shape[-1]), places, axis=1)
    return to_bytes(smoothed(to_unit(shuffled.reshape(images.shape)), sigma))


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


def zoom_blur(images: np.ndarray, upper: float, _: Streams) -> np.ndarray:
    return to_bytes(apply(zoom_blur_matrix(*images.shape[1:3], upper), to_unit(images)))


def smoothed(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian over the rows and columns of N x H x W x C, cut at 4 sigma; beyond the edges the edge goes on."""
    return ndimage.gaussian_filter(pixels, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)


# ---- motion and zoom, which snow has, too ----------------------------------------------------------------------------


def motion_kernel(radius: float, sigma: float, angle: float) -> tuple[np.ndarray, tuple[int, int]]:
    """(kernel float32, rows x columns, sum 1; its anchor (x, y), the place of the pixel itself).

    2 ceil(radius) + 1 taps of exp(-i^2 / 2 sigma^2), the i-th at i steps in direction `angle` (degrees, from the x axis
    towards the rows below), on the nearest pixel.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    columns = np.ceil(steps * math.cos(math.radians(angle)) - 0.5).astype(int)
    rows = np.ceil(steps * math.sin(math.radians(angle)) - 0.5).astype(int)
    left, top = int(columns.min()), int(rows.min())
    kernel = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), np.float32)
    np.add.at(kernel, (rows - top, columns - left), weights)  # two steps may fall on one pixel
    return kernel, (-left, -top)


def blur_motion(image: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """One uint8 image, H x W or H x W x C -> the same; beyond its edges the edge goes on.

    ImageMagick rounds to 16 bits (257 steps a level), and of these a PNG file's 8 bits are the whole levels.
    """
    kernel, anchor = motion_kernel(radius, sigma, angle)
    blurred = cv2.filter2D(image, cv2.CV_32F, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)
    levels = np.rint(blurred * 257).astype(np.uint16) // 257
    return levels.astype(np.uint8).reshape(image.shape)  # OpenCV drops a single channel


def apply(matrix: sparse.csr_array, images: np.ndarray) -> np.ndarray:
    """A matrix over the H W pixels, applied to each image and channel of N x H x W x C."""
    number, height, width, channels = images.shape
    columns = np.ascontiguousarray(images.reshape(number, height * width, channels).transpose(1, 0, 2))
    product = matrix @ columns.reshape(height * width, number * channels)
    return product.reshape(height * width, number, channels).transpose(1, 0, 2).reshape(images.shape)


@lru_cache(maxsize=16)
def zoom_matrix(height: int, width: int, factor: float) -> sparse.csr_array:
    """H W x H W: an image of that size, row by row -> its centre enlarged."""
    return sparse.csr_array(sparse.kron(_zoom_line(height, factor), _zoom_line(width, factor)))


@lru_cache(maxsize=16)
def zoom_blur_matrix(height: int, width: int, upper: float) -> sparse.csr_array:
    """The mean of the image and its zooms by 1, 1.01, ... up to about `upper`; the image itself counts twice.

    Whether `upper` belongs to it is left to np.arange and its rounding, as in the published code (1.06 does).
    """
    factors = np.arange(1, upper, 0.01)
    total = sparse.eye_array(height * width, format="csr")
    for factor in factors:
        total = total + zoom_matrix.__wrapped__(height, width, float(factor))
    return sparse.csr_array(total / (len(factors) + 1))


def _zoom_line(size: int, factor: float) -> sparse.csr_array:
    """size x size: a line of pixels -> its centre enlarged; enlarged by whole pixels, then cut to size."""
    kept = int(np.ceil(size / factor))
    start = (size - kept) // 2
    enlarged = ndimage.zoom(np.eye(kept), (factor, 1), order=1)  # each pixel alone
    cut = (len(enlarged) - size) // 2
    line = np.zeros((size, size))
    line[:, start : start + kept] = enlarged[cut : cut + size]
    return sparse.csr_array(line)
