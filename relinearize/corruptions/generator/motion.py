"""Motion along a line, as ImageMagick blurs it: half a Gaussian, from the pixel on in one direction.

The published files were made with its MotionBlurImage; the taps, their places and the rounding are that function's, so
nothing of ImageMagick is needed.
"""

import math

import cv2
import numpy as np


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
