"""What a robust evaluation looks at: one network in float32 on its device, and which test images in which order."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from relinearize.backbones.adapter import PixelInput
from relinearize.data.augment import to_pixels
from relinearize.data.source import ImageSet
from relinearize.data.splits import stable_order
from relinearize.robustness.attack import is_right
from relinearize.runs.finished import FinishedRun


@dataclass(frozen=True)
class Subject:
    """A finished run's network and the test images of its dataset (uint8, in memory or mapped)."""

    run: FinishedRun
    images: ImageSet
    device: str
    seed: int

    @cached_property
    def network(self) -> PixelInput:
        """With hard masks and one set of batch norms, in eval mode; its parameters take no gradients."""
        return self.run.network().to(self.device).eval().requires_grad_(False)

    @cached_property
    def order(self) -> Tensor:
        """int64: a permutation of all test images that depends on their number and `seed` only.

        n images are its first n: the same for every run on a dataset, and more images contain the fewer.
        """
        return torch.from_numpy(stable_order(len(self.images), self.seed, "robust evaluation"))

    def rows(self, count: int | None) -> Tensor:
        """Positions in the test set of `count` images (None, or more than there are: all, in the set's own order)."""
        if count is None or count >= len(self.images):
            return torch.arange(len(self.images))
        return self.order[:count]

    def which(self, count: int | None) -> str:
        """What `rows` gives, in words. The number is not in it, since more contain the fewer."""
        return "all in order" if count is None or count >= len(self.images) else f"permutation {self.seed}"

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(pixels, labels int64 N) of these test images, on the device; see `pixels`."""
        return self.pixels(self.images.images[rows], self.images.labels[rows])

    def pixels(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 N x H x W x C -> float32 N x C x H x W in [0, 1], laid out as in the run's own test; on the device."""
        return to_pixels(images.to(self.device)), labels.to(self.device)

    @torch.no_grad()
    def correct(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """bool N: which images are classified correctly."""
        return is_right(self.network(pixels), labels)

    @property
    def identity(self) -> dict[str, Any]:
        """All that every piece depends on."""
        return {**self.run.identity, "device": self.device, "torch": torch.__version__}
