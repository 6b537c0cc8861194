"""Corruptions generated from the test set, batch by batch."""

import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from relinearize.corruptions.cache import ArrayCache
from relinearize.corruptions.constants import CORRUPTIONS, EXTRA, choose_constants
from relinearize.corruptions.generator.generate import VERSION, generate
from relinearize.corruptions.photographs import Photographs
from relinearize.corruptions.sources import CorruptedImages
from relinearize.errors import UserError

CHUNK = 1000  # images made at a time for the cache
DISTRIBUTIONS = ("numpy", "scipy", "opencv-python-headless", "pillow")  # another version may round otherwise


class GeneratedCorruptions(CorruptedImages):
    """`images` (uint8 N x H x W x C, array or tensor; C 1 or 3) under the standard corruptions, labelled as generated.

    constants: "cifar", "tiny" or "auto" (by image size). seed: of the corruptions' random numbers. frost_images: folder
    of photographs of frost; None: 14 of the 15 corruptions, without frost. extra: the four extra corruptions, too.
    cache: folder for the arrays (one per corruption and severity, each as large as the test set); None: no cache.
    class_names: not used (CorruptionFiles takes it). Raises UserError naming what is wrong.

    Images made from Tiny-ImageNet's validation set are not Tiny-ImageNet-C, which was made from other crops.
    """

    source = "generated"

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str] | None = None,
        *,
        constants: str = "auto",
        seed: int = 0,
        cache: str | Path | None = None,
        frost_images: str | Path | None = None,
        extra: bool = False,
    ) -> None:
        self._images = np.asarray(images)
        self._labels = np.asarray(labels).astype(np.int64)
        if self._images.ndim != 4 or len(self._images) != len(self._labels):
            raise ValueError(f"images {self._images.shape} and labels {self._labels.shape} do not match")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise UserError(f"corruptions.seed={seed}: must be an integer >= 0")
        self.constants, self.seed = choose_constants(constants, max(self._images.shape[1:3])), seed
        self._photographs = None if frost_images is None else Photographs(frost_images)
        self.left_out = {}
        if self._photographs is None:
            self.left_out["frost"] = "needs photographs of frost (corruptions.frost_images=FOLDER)"
        wanted = CORRUPTIONS + EXTRA if extra else CORRUPTIONS
        if extra and self._images.shape[-1] == 1:
            self.left_out["saturate"] = "grey images have no saturation"
        self.names = tuple(name for name in wanted if name not in self.left_out)
        self._cache_folder = None if cache is None else Path(cache).expanduser()

    def __len__(self) -> int:
        return len(self._images)

    def describe(self) -> dict[str, Any]:
        """Constants, seed, what is left out and why, and the versions that may change a rounding."""
        return {
            "source": self.source,
            "constants": self.constants,
            "seed": self.seed,
            "images": len(self),
            "names": list(self.names),
            "left_out": dict(self.left_out),
            "frost_images_sha256": None if self._photographs is None else self._photographs.sha256,
            "generator": VERSION,
            "versions": {name: importlib.metadata.version(name) for name in DISTRIBUTIONS},
        }

    def _read(self, name: str, severity: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._cache_folder is None:
            return self._generate(name, severity, positions), self._labels[positions]
        cache = self._frost_cache if name == "frost" else self._cache
        array = cache.load(f"{name}-{severity}", self._images.shape, lambda: self._chunks(name, severity))
        return array[positions], self._labels[positions]

    def _generate(self, name: str, severity: int, positions: np.ndarray) -> np.ndarray:
        return generate(
            self._images[positions],
            name,
            severity,
            constants=self.constants,
            seed=self.seed,
            positions=positions,
            photographs=self._photographs,
        )

    def _chunks(self, name: str, severity: int) -> Iterator[np.ndarray]:
        for start in range(0, len(self), CHUNK):
            yield self._generate(name, severity, np.arange(start, min(start + CHUNK, len(self))))

    @cached_property
    def _content(self) -> dict[str, Any]:
        """What cached arrays depend on; not on what else is made."""
        pixels = hashlib.sha256(np.ascontiguousarray(self._images)).hexdigest()
        settings = {key: value for key, value in self.describe().items() if key not in ("names", "left_out")}
        return {"pixels": pixels, "shape": list(self._images.shape), **settings}

    @cached_property
    def _frost_cache(self) -> ArrayCache:
        return ArrayCache(self._cache_folder, self._content)

    @cached_property
    def _cache(self) -> ArrayCache:
        """Of all others, which see no photograph."""
        return ArrayCache(self._cache_folder, {**self._content, "frost_images_sha256": None})
