"""AugMix one image at a time with Pillow, as the reference does it, and the images to compare it on."""

import numpy as np
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from relinearize.data.augmix import ENDED, AugMixDraw
from relinearize.data.augmix_operations import OPERATIONS, parameters

NAMES = [operation.__name__ for operation in OPERATIONS]
AFFINE = {
    "shear_x": lambda p: (1, p, 0, 0, 1, 0),
    "shear_y": lambda p: (1, 0, 0, p, 1, 0),
    "translate_x": lambda p: (1, 0, int(p), 0, 1, 0),
    "translate_y": lambda p: (1, 0, 0, 0, 1, int(p)),
}


def pillow(name: str, image: Image.Image, parameter: float) -> Image.Image:
    if name in AFFINE:
        return image.transform(image.size, Image.Transform.AFFINE, AFFINE[name](parameter), Image.Resampling.BILINEAR)
    if name == "rotate":
        return image.rotate(int(parameter), resample=Image.Resampling.BILINEAR)
    if name in ("posterize", "solarize"):
        return getattr(ImageOps, name)(image, int(parameter))
    return getattr(ImageOps, name)(image)


def to_pillow(image: torch.Tensor) -> Image.Image:
    """uint8 H x W x C."""
    return Image.fromarray(image.squeeze(2).numpy() if image.shape[2] == 1 else image.numpy())


def from_pillow(image: Image.Image) -> torch.Tensor:
    array = torch.from_numpy(np.array(image))
    return array if array.ndim == 3 else array[..., None]


def random_images(count: int, height: int, width: int, channels: int, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.randint(low, high, (count, height, width, channels), dtype=torch.uint8, generator=generator)


def photographs(count: int, size: int = 32) -> torch.Tensor:
    """Squares cut at random from scikit-learn's two photographs, made small: uint8 count x size x size x 3."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(array) for array in load_sample_images().images]
    squares = []
    for _square in range(count):
        picture, side = pictures[rng.integers(2)], int(rng.integers(64, 257))
        left, top = (int(rng.integers(0, room - side)) for room in picture.size)
        squares.append(picture.crop((left, top, left + side, top + side)).resize((size, size)))
    return torch.stack([from_pillow(square) for square in squares])


def hard_images() -> torch.Tensor:
    """One value only; all but one pixel alike; each value once; two values: where histograms have their corners."""
    one_value = torch.full((20, 20), 7, dtype=torch.uint8)
    one_bright, one_dark = torch.zeros(20, 20, dtype=torch.uint8), torch.full((20, 20), 255, dtype=torch.uint8)
    one_bright[3, 3], one_dark[19, 0] = 255, 254
    every = torch.arange(400).view(20, 20).clamp(max=255).to(torch.uint8)
    return torch.stack([one_value, one_bright, one_dark, every, every.flip(0), (every // 128) + 100])[..., None]


KINDS = {
    "digits": lambda: random_images(40, 8, 8, 1),
    "rectangles": lambda: random_images(25, 20, 64, 3),
    "few values": lambda: random_images(40, 20, 20, 3, low=100, high=104),
    "odd sides": lambda: random_images(25, 31, 9, 1),
    "photographs": lambda: photographs(60),
    "large photographs": lambda: photographs(15, size=64),
    "hard": hard_images,
}


def straight_line(image: torch.Tensor, draw: AugMixDraw, number: int) -> torch.Tensor:
    """AugMix of one image as the reference does it, with given draws: Pillow on bytes, sums in float64. H x W x C."""
    height, width, _channels = image.shape
    values = parameters(draw.operations, draw.levels, draw.signs, height, width)[number]
    shares = draw.coefficients[number].double()
    result = shares[0] * image / 255
    for chain, operations in enumerate(draw.operations[number].tolist()):
        picture = to_pillow(image)
        for step, position in enumerate(operations):
            if position != ENDED:
                picture = pillow(NAMES[position], picture, values[chain, step].item())
        result += shares[1 + chain] * from_pillow(picture) / 255
    return result


def drawn_by_numpy(image: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """The reference's own way: NumPy draws, scales written out, one image at a time."""
    height, width, _channels = image.shape
    clean = image.numpy() / 255
    share, chains = rng.beta(1, 1), np.zeros_like(clean)
    for weight in rng.dirichlet([1] * 3):
        picture = to_pillow(image)
        for _step in range(rng.integers(1, 4)):
            name, level, sign = NAMES[rng.integers(9)], rng.uniform(0.1, 3), rng.choice([-1, 1])
            parameter = {
                "posterize": 4 - int(level * 4 / 10),
                "solarize": 256 - int(level * 256 / 10),
                "rotate": sign * int(level * 30 / 10),
                "shear_x": sign * level * 0.3 / 10,
                "shear_y": sign * level * 0.3 / 10,
                "translate_x": sign * int(level * width / 3 / 10),
                "translate_y": sign * int(level * height / 3 / 10),
            }.get(name, 0)
            picture = pillow(name, picture, parameter)
        chains += weight * from_pillow(picture).numpy() / 255
    return (1 - share) * clean + share * chains
