"""The papers' own points, drawn under every plot for orientation and never joined into a curve.

`published.csv` lists test accuracies (`accuracy`, percent) with a ReLU count (`relus`, per image, as published), each
with its source and how sure it is (high, medium or low). Where one experiment is quoted twice, the more certain
quotation stands; ablation rows are left out. `asked` and `met`: the budget that was asked for and the count that the
network had, where known. `tag`, the kind of source: `figure` (of the official repository), `abstract`, `log` (of runs
of the official code), `secondary` (quoted elsewhere) or `unverified` (remembered, not seen). `replacement` says what
stands where a ReLU was removed: `identity`, `quadratic`, `polynomial`, `architecture` (a network designed or pruned to
have fewer ReLUs) or `unknown`.
"""

from importlib import resources

import pandas as pd
from pandas import DataFrame

IMAGE_SIZES = {"cifar10": 32, "cifar100": 32, "tiny_imagenet": 64}


def load_published() -> DataFrame:
    """Every point of the package's published.csv, in the file's order."""
    with resources.files("relinearize.report.papers").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, na_values={"asked": "", "met": ""}, dtype={"accuracy": float})


def published_for(dataset: str, image_size: int) -> DataFrame:
    """The points that can stand beside runs on `dataset` (our name) at `image_size` pixels.

    Empty for other sizes than the papers': ReLU counts scale with the area of the image, so they would not compare.
    """
    points = load_published()
    return points[(points["dataset"] == dataset) & (IMAGE_SIZES.get(dataset) == image_size)]


def drawn(points: DataFrame) -> DataFrame:
    """Those for figures: without low confidence, and without what is empty in most rows."""
    return points[points["confidence"] != "low"].drop(columns=["asked", "met"])
