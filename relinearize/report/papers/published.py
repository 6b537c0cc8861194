"""The papers' own points, drawn under every plot for orientation and never joined into a curve.

`published.csv` lists test accuracies with a ReLU count, each with its source and how sure it is (high or medium).
Where one experiment is quoted twice, the more certain quotation stands; ablation rows are left out.
`replacement` says what stands where a ReLU was removed: `identity`, `quadratic`, `polynomial`, `architecture` (a
network designed or pruned to have fewer ReLUs) or `unknown`.
"""

from dataclasses import dataclass
from importlib import resources

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
    import pandas as pd  # a run prints its row without pandas

    with resources.files("relinearize.report.papers").joinpath("published.csv").open(encoding="utf-8") as file:
        return [PublishedPoint(**row) for row in pd.read_csv(file, keep_default_na=False).to_dict("records")]


def published_for(dataset: str, image_size: int) -> list[PublishedPoint]:
    """The points that can stand beside runs on `dataset` (our name) at `image_size` pixels.

    Empty for other sizes than the papers': ReLU counts scale with the area of the image, so they would not compare.
    """
    if IMAGE_SIZES.get(dataset) != image_size:
        return []
    return [point for point in load_published() if point.dataset == dataset]
