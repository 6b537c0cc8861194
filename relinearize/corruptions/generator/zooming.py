"""Zooming into the centre, bilinearly, as one sparse matrix over the pixels of an image.

The interpolation is linear in the pixels, so the mean of 26 zooms is one matrix, too, and a batch is one product.
"""

from functools import lru_cache

import numpy as np
from scipy import ndimage, sparse


def zoom(images: np.ndarray, factor: float) -> np.ndarray:
    """N x H x W x C of floats -> the same shape, the centre enlarged `factor` (>= 1) times."""
    return apply(zoom_matrix(*images.shape[1:3], factor), images)


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
