"""How long the corrupted test set takes to make: images of 32 pixels, all severities, CIFAR's constants."""

from collections.abc import Iterator

import cv2
import numpy as np
from scipy import ndimage

from bench.common import CLOCKS, Row, Settings
from relinearize.corruptions.constants import NUMBERS, SEVERITIES
from relinearize.corruptions.generator.generate import generate

TEST_SET = 10_000


def scenes(number: int) -> np.ndarray:
    """Smooth random colours: JPEG and Poisson numbers take as long as on photographs, which noise would not show."""
    draw = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(draw.normal(size=(number, 32, 32, 3)), (0, 3, 3, 0))
    return np.clip(120 + 55 * fields / fields.std(), 0, 255).astype(np.uint8)


def measure(settings: Settings) -> Iterator[Row]:
    """Microseconds an image of each corruption, the mean of its severities; and seconds of the whole set.

    Without frost, which needs photographs.
    """
    images = scenes(100 if settings.quick else 500)
    now = CLOCKS[settings.clock]
    cv2.setNumThreads(settings.threads)
    total = 0.0
    for name in NUMBERS:
        if name == "frost":
            continue
        generate(images[:8], name, 5)  # matrices and code are there before the clock starts
        started = now()
        for severity in SEVERITIES:
            generate(images, name, severity)
        seconds = (now() - started) / (len(SEVERITIES) * len(images))
        total += seconds * len(SEVERITIES) * TEST_SET
        yield Row("corruptions", "32 x 32", name, 1e6 * seconds, "us an image")
    yield Row("corruptions", "18 x 5 x 10,000 images", "all", total, "s", "at most 180")
