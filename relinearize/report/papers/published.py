"""The papers' own points, drawn under every plot for orientation and never joined into a curve.

`published.csv` lists test accuracies with a ReLU count, each with its source and how sure it is (high or medium).
Where one experiment is quoted twice, the more certain quotation stands; ablation rows are left out.
`replacement` says what stands where a ReLU was removed: `identity`, `quadratic`, `polynomial`, `architecture` (a
network designed or pruned to have fewer ReLUs) or `unknown`.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

Replacement = Literal["identity", "quadratic", "polynomial", "architecture", "unknown"]
REPLACEMENTS: tuple[str, ...] = get_args(Replacement)
IMAGE_SIZES = {"cifar10": 32, "cifar100": 32, "tiny_imagenet": 64}


@dataclass(frozen=True)
class PublishedPoint:
    """One published result. `relus`: kept positions per image; `accuracy`: test accuracy in percent."""

    paper: str
    dataset: str
    backbone: str
    method: str
    relus: int
    accuracy: float
    replacement: str
    convention: str
    confidence: str
    source: str


def load_published() -> list[PublishedPoint]:
    """Every point of the package's published.csv, in the file's order."""
    text = resources.files("relinearize.report.papers").joinpath("published.csv").read_text(encoding="utf-8")
    return [
        PublishedPoint(**{**row, "relus": int(row["relus"]), "accuracy": float(row["accuracy"])})
        for row in csv.DictReader(text.splitlines())
    ]


def published_for(
    dataset: str, image_size: int, points: Sequence[PublishedPoint] | None = None
) -> list[PublishedPoint]:
    """The points that can stand beside runs on `dataset` (our name) at `image_size` pixels.

    Empty for other sizes than the papers': ReLU counts scale with the area of the image, so they would not compare.
    """
    if IMAGE_SIZES.get(dataset) != image_size:
        return []
    return [point for point in (load_published() if points is None else points) if point.dataset == dataset]
