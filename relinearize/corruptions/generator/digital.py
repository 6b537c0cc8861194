"""Brightness, contrast and saturation; pixelation and JPEG, both Pillow's; elastic deformation.

Brightness and saturation are meant in HSV. A channel there is v (1 - s d), where d, from 0 for the largest channel to 1
for the smallest, is the hue: so v and s are changed without going through hues and back.
"""

from io import BytesIO

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from relinearize.corruptions.generator.pixels import Streams, to_bytes, to_unit
from relinearize.errors import UserError


def brightness(images: np.ndarray, added: float, _: Streams) -> np.ndarray:
    """`added` to HSV's value."""
    pixels = to_unit(images)
    if images.shape[-1] == 1:
        return to_bytes(pixels + added)
    value, saturation, depth = _value_saturation_depth(pixels)
    return to_bytes(np.clip(value + added, 0, 1) * (1 - saturation * depth))


def saturate(images: np.ndarray, strength: tuple[float, float], _: Streams) -> np.ndarray:
    """HSV's saturation times a factor, plus a number. Grey pixels count as red ones of saturation 0, as published."""
    if images.shape[-1] == 1:
        raise UserError("corruption saturate needs images of three channels: grey ones have no saturation")
    factor, added = strength
    value, saturation, depth = _value_saturation_depth(to_unit(images))
    return to_bytes(value * (1 - np.clip(saturation * factor + added, 0, 1) * depth))


def contrast(images: np.ndarray, factor: float, _: Streams) -> np.ndarray:
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


def pixelate(images: np.ndarray, scale: float, _: Streams) -> np.ndarray:
    """Made smaller and back, by the means of boxes."""
    height, width = images.shape[1:3]
    small = max(1, int(width * scale)), max(1, int(height * scale))
    smaller = [_pil_image(image).resize(small, Image.Resampling.BOX) for image in images]
    return _bytes([image.resize((width, height), Image.Resampling.BOX) for image in smaller], images.shape)


def jpeg_compression(images: np.ndarray, quality: int, _: Streams) -> np.ndarray:
    """Saved and read again, with Pillow's settings but for the quality (4:2:0 colours)."""
    read = []
    for image in images:
        file = BytesIO()
        _pil_image(image).save(file, "JPEG", quality=quality)
        read.append(Image.open(file))
    return _bytes(read, images.shape)


def elastic_transform(images: np.ndarray, strength: tuple[float, float, float], streams: Streams) -> np.ndarray:
    """A random affine map (mirrored at the edges), then each pixel from a place beside it, smoothly varied.

    strength: the height of the displacements, the sigma that smooths them, and how far the corners of the affine map
    move; each as a share of the image size (the smaller side, should they differ).
    """
    number, height, width, channels = images.shape
    size = min(height, width)
    reach, sigma, jitter = (share * size for share in strength)
    # Triangles around the centre, as x and y: lower right, upper right, upper left.
    centre, arm = np.array([width // 2, height // 2], np.float32), size // 3
    triangle = centre + np.array([[arm, arm], [arm, -arm], [-arm, -arm]], np.float32)
    pixels = to_unit(images, np.float32)
    warped = np.empty_like(pixels)
    drawn = np.empty((number, 2, height, width))
    for image, stream in enumerate(streams):
        moved = triangle + stream.uniform(-jitter, jitter, size=(3, 2)).astype(np.float32)
        affine = cv2.getAffineTransform(triangle, moved)
        turned = cv2.warpAffine(pixels[image], affine, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        warped[image] = turned.reshape(height, width, channels)
        drawn[image] = stream.uniform(-1, 1, size=(2, height, width))
    if reach == 0:
        return to_bytes(warped)
    shifts = ndimage.gaussian_filter(drawn, (0, 0, sigma, sigma), mode="reflect", truncate=3) * reach
    return to_bytes(displaced(warped, shifts[:, 1], shifts[:, 0]))


def displaced(pixels: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Each pixel from `down` rows and `right` columns away (N x H x W), bilinear; edges mirrored, edge pixel twice."""
    height, width, channels = pixels.shape[1:]
    rows, columns = np.arange(height)[:, None] + down, np.arange(width) + right
    moved = np.empty(pixels.shape)
    for image, channel in np.ndindex(len(pixels), channels):
        source, places = pixels[image, ..., channel].astype(np.float64), (rows[image], columns[image])
        ndimage.map_coordinates(source, places, output=moved[image, ..., channel], order=1, mode="reflect")
    return moved


def _pil_image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _bytes(images: list[Image.Image], shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).reshape(shape)
