"""What training does to an image: random crops and flips, drawn for every image on its own, and from bytes to pixels.

Small images, as in SNL, SENet and RLNet: pad with zeros, crop at random, flip with probability 1/2, on the device.
torchvision's transforms draw one crop for a whole batch when given a batch; here an index into a strided view takes
another window for each image. Large images: torchvision's RandomResizedCrop and flip, image by image, while decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relinearize.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

USUAL_AREA = 0.08  # smallest share of an image's area that ImageNet's recipe crops


@dataclass(frozen=True)
class Augmentation:
    """The `dataset.augment` group.

    crop_padding: pixels of zeros around an image before its random crop; flip: mirror half of the images;
    random_resized_crop: instead of the padding, a random part of the image, of at least this share of its area and of
    proportions between 3:4 and 4:3, resized to the network's input. True is ImageNet's 0.08.
    """

    crop_padding: int = 0
    flip: bool = False
    random_resized_crop: bool | float = False

    @classmethod
    def read(cls, settings: Mapping[str, Any], image_size: int) -> Augmentation:
        """Refuses unknown keys, and crops that could hold nothing but zeros."""
        if unknown := set(settings) - set(cls.__dataclass_fields__):
            raise UserError(f"dataset.augment.{min(unknown)}: unknown; valid are {', '.join(cls.__dataclass_fields__)}")
        read = cls(**settings)
        padding, area = read.crop_padding, read.random_resized_crop
        if isinstance(padding, bool) or not isinstance(padding, int) or not 0 <= padding < image_size:
            raise UserError(f"dataset.augment.crop_padding={padding}: valid is 0 to {image_size - 1} pixels")
        if not isinstance(read.flip, bool):
            raise UserError(f"dataset.augment.flip={read.flip}: valid are true and false")
        if not isinstance(area, bool | int | float) or not 0 <= area <= 1:
            raise UserError(
                f"dataset.augment.random_resized_crop={area}: valid are true, false and the smallest share of the "
                "area, above 0 and up to 1"
            )
        if area and padding:
            raise UserError(
                f"dataset.augment: crop_padding={padding} and random_resized_crop={area} exclude each other; set "
                "one of them to 0"
            )
        return read

    @property
    def smallest_area(self) -> float | None:
        """Share of the area; None without random resized crops."""
        area = self.random_resized_crop
        return None if not area else USUAL_AREA if area is True else float(area)


# ---- padded crops ----------------------------------------------------------------------------------------------------


def draw_augmentation(count: int, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """int64, count x 3: top and left corner of the window (0 .. 2 * padding) and 1 where the image is flipped."""
    corners = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    flips = torch.randint(0, 2, (count, 1), generator=generator)  # drawn anyway: `flip` must not shift the crops
    return torch.cat([corners, flips * int(flip)], dim=1)


def pad_with_zeros(images: Tensor, padding: int) -> Tensor:
    """uint8 N x H x W x C -> N x (H + 2 * padding) x (W + 2 * padding) x C."""
    return torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding)).contiguous()


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


# ---- random resized crops --------------------------------------------------------------------------------------------


def random_resized_crop(image: Image, seed: int, size: int, smallest_area: float, flip: bool) -> Image:
    """torchvision's RandomResizedCrop (bilinear, antialiased) and flip of a PIL image, a function of `seed`."""
    from torchvision.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop

    transform = Compose([RandomResizedCrop(size, (smallest_area, 1.0)), RandomHorizontalFlip(0.5 * flip)])
    with torch.random.fork_rng(devices=[]):  # the transforms draw from the global generator
        torch.default_generator.manual_seed(seed)
        return transform(image)


# ---- on the way to the network ---------------------------------------------------------------------------------------


def to_pixels(images: Tensor) -> Tensor:
    """uint8 N x H x W x C -> float32 in [0, 1], N x C x H x W, already in channels_last memory format."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor without waiting for the device."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
