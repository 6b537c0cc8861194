"""AugMix's nine operations on batches of bytes, each giving the bytes that Pillow gives.

The list and the scales are those of google-research/augmix (augmentations.py): none of them is a corruption of the -C
test sets. Pillow's resampling (bilinear, in double precision, truncated to bytes) is followed step by step, so that the
batched form is not an approximation: the same pixel value comes out wherever it runs.

Every operation takes uint8 N x C x H x W and one parameter per image (float64, N, on the same device) and returns new
uint8 N x C x H x W. The channels are treated alike, so any number of them will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

LARGEST_LEVEL = 10.0  # levels run from 0 to 10; at 10 an operation is at full strength
FULL_ROTATION, FULL_SHEAR = 30, 0.3  # degrees, slope


def autocontrast(images: Tensor, _unused: Tensor | None = None) -> Tensor:
    """Stretch the values of each channel to 0 .. 255."""
    low, high = (extreme(images, dim=(2, 3), keepdim=True).to(torch.float64) for extreme in (torch.amin, torch.amax))
    varied = high > low  # a channel of one value has nothing to stretch
    # A tensor over a tensor: a plain number over a tensor is computed as its reciprocal, times the number.
    scale = torch.where(varied, torch.full_like(low, 255) / (high - low), 1.0)
    return images.to(torch.float64).mul_(scale).add_(-low * scale * varied).to(torch.uint8)


def equalize(images: Tensor, _unused: Tensor | None = None) -> Tensor:
    """Spread the values of each channel evenly over 0 .. 255, by the cumulated histogram."""
    count, channels, height, width = images.shape
    values = images.flatten(2).to(torch.int64)
    one = torch.ones_like(values, dtype=torch.int32)  # in full: an expanded one takes three times as long
    histogram = torch.zeros(count, channels, 256, dtype=torch.int32, device=images.device).scatter_add_(2, values, one)
    brightest = histogram.gather(2, values.amax(2, keepdim=True))
    step = (height * width - brightest) // 255
    below = (histogram.cumsum(2) - histogram).to(torch.float64)
    # A quotient of integers this small, rounded in float64, has the right integer part; integer division is slow.
    table = ((step // 2 + below) / step).clamp_(max=255)
    # Too few pixels below the brightest value: the channel stays, as one of a single value does.
    table = torch.where(step > 0, table, torch.arange(256, dtype=torch.float64, device=images.device)).to(torch.uint8)
    return table.gather(2, values).view_as(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (0 .. 8) bits of each value."""
    kept = (256 - (1 << (8 - bits).to(torch.int64))).to(torch.uint8)
    return images & kept[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from `threshold` (1 .. 256) on."""
    inverted = images > (threshold - 1).to(torch.uint8)[:, None, None, None]
    return images ^ inverted.view(torch.uint8).neg_()


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn counterclockwise about the centre by integer degrees, up to FULL_ROTATION either way; zeros come in."""
    height, width = images.shape[2:]
    corner, fractions, inside = (
        table.index_select(0, degrees.to(torch.int64) + FULL_ROTATION)
        for table in rotations(height, width, images.device)
    )
    values = padded(images, left=1, top=1)
    upper = between(values, corner, fractions[:, :1])
    lower = between(values[..., width + 2 :], corner, fractions[:, :1])
    turned = interpolated(upper, lower, fractions[:, 1:]).to(torch.uint8).mul_(inside[:, None])
    return turned.view_as(images)


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """Shift each row to the left by `slope` times the height of its centre, in fractions of pixels; zeros come in."""
    height, width = images.shape[2:]
    x, y = centres(height, width, images.device)
    # Of Pillow's two interpolations, the one across the shift has a fraction of exactly 0 and changes nothing.
    before, fraction, inside = split(x + slope[:, None, None] * y, width)
    corner = before + torch.arange(height, device=images.device)[:, None] * (width + 2)
    sheared = between(padded(images, left=1), corner.flatten(1), fraction.flatten(1)[:, None])
    return sheared.to(torch.uint8).view_as(images).mul_(inside[:, None])


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """Shift each column upwards by `slope` times its centre's distance from the left; zeros come in."""
    return shear_x(images.mT, slope).mT


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift to the left by integer pixels; zeros come in."""
    width = images.shape[3]
    source = torch.arange(width, device=images.device) + pixels.to(torch.int64)[:, None]
    inside = (source >= 0) & (source < width)
    places = source.clamp_(0, width - 1)[:, None, None].expand_as(images)
    return images.gather(3, places).mul_(inside.view(torch.uint8)[:, None, None])


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift upwards by integer pixels; zeros come in."""
    return translate_x(images.mT, pixels).mT


Operation = Callable[[Tensor, Tensor], Tensor]
OPERATIONS: tuple[Operation, ...] = (
    autocontrast,
    equalize,
    posterize,
    rotate,
    solarize,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


def parameters(operations: Tensor, levels: Tensor, signs: Tensor, height: int, width: int) -> Tensor:
    """What each operation is called with, float64, at a level of 0 .. LARGEST_LEVEL.

    operations: positions in OPERATIONS; levels: float64; signs: +1 or -1, of the geometric ones; all of one shape.
    Positions outside of OPERATIONS get 0.
    """

    def truncated(full: float) -> Tensor:
        return (levels * full / LARGEST_LEVEL).trunc()

    values = {
        posterize: 4 - truncated(4),
        rotate: signs * truncated(FULL_ROTATION),
        solarize: 256 - truncated(256),
        shear_x: signs * (levels * FULL_SHEAR / LARGEST_LEVEL),
        translate_x: signs * truncated(width / 3),
        translate_y: signs * truncated(height / 3),
    }
    values[shear_y] = values[shear_x]
    chosen = torch.zeros_like(levels)
    for position, operation in enumerate(OPERATIONS):
        if operation in values:
            chosen = torch.where(operations == position, values[operation], chosen)
    return chosen


def centres(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and y of the pixels' centres, float64, of shapes width and height x 1."""
    x, y = (torch.arange(size, dtype=torch.float64, device=device) + 0.5 for size in (width, height))
    return x, y[:, None]


def split(source: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A coordinate in an image of `size` pixels as: its left (upper) neighbour's position in the image padded by one
    pixel, int64; how far it lies beyond that pixel's centre, 0 to 1; whether it is inside of the image, uint8.
    """
    inside = (source >= 0) & (source < size)
    source = source - 0.5
    before = source.floor()
    fraction = source.sub_(before)
    return before.add_(1).clamp_(0, size).to(torch.int64), fraction, inside.view(torch.uint8)


def padded(images: Tensor, left: int = 0, top: int = 0) -> Tensor:
    """float64 N x C x (H' * W'), the outermost pixels repeated on both sides: Pillow takes them as their own
    neighbours.
    """
    return pad(images.to(torch.float64), (left, left, top, top), mode="replicate").flatten(2)


def between(values: Tensor, places: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate between the values at `places` (int64 N x P) and those behind them, for all channels."""
    places = places[:, None].expand(-1, values.shape[1], -1)
    return interpolated(values.gather(2, places), values[..., 1:].gather(2, places), fraction)


def interpolated(start: Tensor, end: Tensor, fraction: Tensor) -> Tensor:
    """start + (end - start) * fraction, rounded after each step: torch.lerp may fuse the two. Overwrites `end`."""
    return end.sub_(start).mul_(fraction).add_(start)


@lru_cache(maxsize=8)
def rotations(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where the pixels of a turned image come from, for -FULL_ROTATION .. FULL_ROTATION degrees (the first dimension).

    Returns the upper left neighbours, int64 x (H * W), as positions in the padded image; the fractions across and down,
    float64 x 2 x (H * W); whether the places lie inside of the image, uint8 x (H * W).
    """
    x, y = centres(height, width, torch.device("cpu"))
    corners, fractions, insides = [], [], []
    for degrees in range(-FULL_ROTATION, FULL_ROTATION + 1):
        # As Pillow computes the matrix, digit by digit: the angle modulo 360, sine and cosine to 15 places.
        angle = -math.radians(degrees % 360.0)
        cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
        lefts, across, inside_across = split(cosine * x + sine * y + offset(cosine, sine, width, height), width)
        tops, down, inside_down = split(-sine * x + cosine * y + offset(cosine, -sine, height, width), height)
        corners.append((tops * (width + 2) + lefts).flatten())
        fractions.append(torch.stack([across, down]).flatten(1))
        insides.append((inside_across * inside_down).flatten())
    return tuple(torch.stack(tables).to(device) for tables in (corners, fractions, insides))


def offset(along: float, across: float, size: int, other_size: int) -> float:
    """What makes a turn about the corner one about the centre, in one coordinate."""
    return along * (-size / 2) + across * (-other_size / 2) + size / 2
