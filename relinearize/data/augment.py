"""Random crops and horizontal flips, drawn for every image on its own, and the step from bytes to pixels.

The recipe of SNL, SENet and RLNet for small images: pad with zeros, crop at random, flip with probability 1/2.
torchvision's transforms draw one crop for a whole batch when given a batch; here an index into a strided view takes
another window for each image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relinearize.data.order import seeded_generator


def draw_augmentation(
    count: int, padding: int, flip: bool, seed: int, epoch: int, batch: int, stream: str = "augmentation"
) -> Tensor:
    """int64, count x 3: top and left corner of the window (0 .. 2 * padding) and 1 where the image is flipped.

    `stream` names independent draws for the same batch.
    """
    generator = seeded_generator(stream, seed, epoch, batch)
    corners = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    flips = torch.randint(0, 2, (count, 1), generator=generator)  # drawn anyway: `flip` must not shift the crops
    return torch.cat([corners, flips * int(flip)], dim=1)


def pad_with_zeros(images: Tensor, padding: int) -> Tensor:
    """uint8 N x H x W x C -> N x (H + 2 * padding) x (W + 2 * padding) x C."""
    if padding == 0:
        return images.contiguous()
    count, height, width, channels = images.shape
    padded = images.new_zeros(count, height + 2 * padding, width + 2 * padding, channels)
    padded[:, padding : padding + height, padding : padding + width] = images
    return padded


def crop_and_flip(padded: Tensor, rows: Tensor, augmentation: Tensor, padding: int) -> Tensor:
    """Take one window of every image in `rows`.

    padded: uint8 N x (H + 2 * padding) x (W + 2 * padding) x C, contiguous; rows: int64 B; augmentation: int64 B x 3 as
    drawn above, all on one device. Returns uint8 B x H x W x C.
    """
    count, padded_height, padded_width, channels = padded.shape
    height, width = padded_height - 2 * padding, padded_width - 2 * padding
    image_stride, row_stride, column_stride, _ = padded.stride()
    # A row of a window is one run of W * C bytes, which copies faster than W runs of C bytes.
    windows = padded.as_strided(
        (count, 2 * padding + 1, 2 * padding + 1, height, width * channels),
        (image_stride, row_stride, column_stride, row_stride, 1),
    )
    top, left, flipped = augmentation.unbind(1)
    crops = windows[rows, top, left].view(-1, height, width, channels)
    # Exclusive-or with a mask of ones or zeros chooses between the two; torch.where on bytes takes three times as long.
    chosen = flipped.neg().to(torch.uint8)[:, None, None, None]
    return crops ^ ((crops ^ crops.flip(2)) & chosen)


def to_pixels(images: Tensor) -> Tensor:
    """uint8 N x H x W x C -> float32 in [0, 1], N x C x H x W, already in channels_last memory format."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)
