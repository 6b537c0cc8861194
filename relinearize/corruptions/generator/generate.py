"""One corruption at one severity of any images: the published ones, except for the random numbers."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from relinearize.corruptions.constants import CONSTANTS, NUMBERS, check_corruption
from relinearize.corruptions.generator import blur, digital, noise, weather
from relinearize.corruptions.generator.pixels import image_streams
from relinearize.corruptions.photographs import Photographs
from relinearize.errors import UserError, check_choice

VERSION = 1  # raise it when the same images would be corrupted to other bytes
BLOCK_VALUES = 1 << 19  # values worked on at once: 4 MB as float64, about what a core's cache holds

FAMILIES = (noise, blur, weather, digital)
# Each is called with a batch, its constants, and the random numbers of each image; frost with photographs, too.
FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    name: getattr(family, name) for family in FAMILIES for name in NUMBERS if hasattr(family, name)
}


def generate(
    images: np.ndarray,
    name: str,
    severity: int,
    *,
    constants: str = "cifar",
    seed: int = 0,
    positions: Sequence[int] | np.ndarray | None = None,
    photographs: Photographs | None = None,
) -> np.ndarray:
    """uint8, N x H x W x C with C 1 or 3 -> the same shape and type, corrupted.

    name: one of CORRUPTIONS or EXTRA; severity: 1 to 5; constants: "cifar" or "tiny". positions: the images' rows in
    the test set (default: 0 to N - 1). An image's result depends on its pixels, its position, `seed` and no other
    image, so any part of the set can be generated alone. photographs: for frost, and required there.

    Raises UserError for names and severities that do not exist, frost without photographs, and saturate on grey images;
    ValueError for images of another type or shape.
    """
    check_choice("corruptions.constants", constants, CONSTANTS)
    check_corruption(name, severity)
    strength = CONSTANTS[constants][name][severity - 1]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 N x H x W x 1 or 3")
    positions = range(len(images)) if positions is None else positions
    if len(positions) != len(images):
        raise ValueError(f"{len(positions)} positions for {len(images)} images")
    if name == "frost" and photographs is None:
        raise UserError("corruption frost needs photographs of frost: corruptions.frost_images=FOLDER")
    result = np.empty_like(images, order="C")
    for rows in blocks(images.shape):
        streams = image_streams(seed, name, severity, positions[rows])
        further = {"photographs": photographs} if name == "frost" else {}
        result[rows] = FUNCTIONS[name](np.ascontiguousarray(images[rows]), strength, streams, **further)
    return result


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows that are worked on at once; the result does not depend on them."""
    size = max(1, BLOCK_VALUES // int(np.prod(shape[1:])))
    for start in range(0, shape[0], size):
        yield slice(start, start + size)
