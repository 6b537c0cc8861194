"""Corruptions generated from the test set, batch by batch."""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from relinearize.corruptions.constants import CONSTANTS, CORRUPTIONS, EXTRA
from relinearize.corruptions.generator.generate import VERSION, generate
from relinearize.corruptions.photographs import Photographs
from relinearize.corruptions.sources import CorruptedImages
from relinearize.data.decoding import EncodedImages, load_array
from relinearize.errors import UserError, check_choice, check_number, check_path
from relinearize.files import write_text
from relinearize.progress import say

LARGEST = 96  # pixels for which the constants for 64 may stand
CHUNK = 1000  # images made at a time for the cache
DISTRIBUTIONS = ("numpy", "scipy", "opencv-python-headless", "pillow")  # another version may round otherwise


class GeneratedCorruptions(CorruptedImages):
    """`images` (uint8 N x H x W x C; C 1 or 3) under the standard corruptions, labelled as generated.

    constants: "cifar", "tiny" or "auto" (by image size). seed: of the corruptions' random numbers. frost_images: folder
    of photographs of frost; None: 14 of the 15 corruptions, without frost. extra: the four extra corruptions, too.
    cache: folder for the arrays (one per corruption and severity, each as large as the test set); None: no cache.
    class_names: not used (CorruptionFiles takes it). Raises UserError naming what is wrong.

    Images made from Tiny-ImageNet's validation set are not Tiny-ImageNet-C, which was made from other crops.
    """

    source = "generated"

    def __init__(
        self,
        images: np.ndarray | EncodedImages,
        labels: np.ndarray,
        class_names: Sequence[str] | None = None,
        *,
        constants: str = "auto",
        seed: int = 0,
        cache: str | Path | None = None,
        frost_images: str | Path | None = None,
        extra: bool = False,
    ) -> None:
        self._images = images
        self._labels = np.asarray(labels).astype(np.int64)
        if self._images.ndim != 4 or len(self._images) != len(self._labels):
            raise ValueError(f"images {self._images.shape} and labels {self._labels.shape} do not match")
        check_number("corruptions.seed", seed, ">= 0", integer=True)
        check_choice("corruptions.extra", extra, (True, False))
        check_choice("corruptions.constants", constants, ("auto", *CONSTANTS))
        if constants == "auto":  # those made for the nearer size
            size = max(self._images.shape[1:3])
            constants = "cifar" if size < 48 else "tiny"
            if size > LARGEST:
                say(f"corruptions: those of images of 64 pixels, on {size}: not comparable with ImageNet-C")
        self.constants, self.seed = constants, seed
        self._photographs = None if frost_images is None else Photographs(frost_images)
        self.left_out = {}
        if self._photographs is None:
            self.left_out["frost"] = "needs photographs of frost (corruptions.frost_images=FOLDER)"
        else:
            *_, scale = CONSTANTS[constants]["frost"][0]  # of all severities
            self._photographs.textures(scale, *self._images.shape[1:])  # finds those that cannot be used
        wanted = CORRUPTIONS + EXTRA if extra else CORRUPTIONS
        if extra and self._images.shape[-1] == 1:
            self.left_out["saturate"] = "grey images have no saturation"
        self.names = tuple(name for name in wanted if name not in self.left_out)
        self._cache = None if cache is None else check_path("corruptions.cache", cache)

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
        labels = self._labels[positions]
        if self._cache is None:
            return self._generate(name, severity, positions), labels

        def fill(array: np.ndarray) -> None:
            for start in range(0, len(self), CHUNK):
                rows = np.arange(start, min(start + CHUNK, len(self)))
                array[rows] = self._generate(name, severity, rows)

        content = self._content if name == "frost" else self._content | {"frost_images_sha256": None}
        text = json.dumps(content, sort_keys=True, indent=1)
        folder = self._cache / hashlib.sha256(text.encode()).hexdigest()[:16]
        path = folder / f"{name}-{severity}.npy"
        try:
            if not path.exists():
                write_text(folder / "content.json", text + "\n")
            return load_array(path, self._images.shape, fill)[positions], labels
        except OSError as error:
            raise UserError(
                f"corruptions.cache: {path} cannot be written ({error.strerror or error}); "
                "name a folder with room, or null for no cache"
            ) from error

    def _generate(self, name: str, severity: int, positions: np.ndarray) -> np.ndarray:
        settings = {"constants": self.constants, "seed": self.seed, "photographs": self._photographs}
        return generate(np.asarray(self._images[positions]), name, severity, positions=positions, **settings)

    @cached_property
    def _content(self) -> dict[str, Any]:
        """What cached arrays depend on; not on what else is made."""
        pixels = hashlib.sha256()
        for start in range(0, len(self), CHUNK):  # in parts: streamed images are not in memory
            pixels.update(np.ascontiguousarray(self._images[start : start + CHUNK]))
        settings = {key: value for key, value in self.describe().items() if key not in ("names", "left_out")}
        return {"pixels": pixels.hexdigest(), "shape": list(self._images.shape), **settings}
