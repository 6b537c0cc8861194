"""The published points: the file's form, and values looked up by hand."""

import pytest

from relinearize.report.figures.style import MARKERS
from relinearize.report.papers.published import IMAGE_SIZES, load_published, published_for


def test_every_row_is_well_formed():
    points = list(load_published().itertuples())
    assert len(points) > 100
    for point in points:
        assert point.dataset in IMAGE_SIZES
        assert point.replacement in MARKERS
        assert point.convention in {"snl", "senet", "unknown"}
        assert point.confidence in {"high", "medium"}
        assert 1_000 <= point.relus <= 6_000_000
        assert 20 < point.accuracy < 100
        assert point.paper and point.method and point.backbone and point.source
        assert not any(place in point.source for place in ("/work", "/home", "/tmp", "/root"))


def test_no_result_stands_twice():
    points = list(load_published().itertuples())
    assert len({(p.dataset, p.method, p.replacement, p.backbone, p.relus, p.accuracy) for p in points}) == len(points)


@pytest.mark.parametrize(
    ("dataset", "method", "relus", "accuracy", "replacement"),
    [
        ("cifar100", "SNL", 49_400, 73.75, "identity"),
        ("cifar10", "SNL", 12_900, 88.23, "identity"),
        ("cifar100", "SNL (independent rerun)", 14_621, 67.16, "identity"),
        ("cifar10", "SENet", 82_000, 93.05, "identity"),
        ("cifar10", "SENet", 150_000, 94.91, "identity"),
        ("cifar100", "SENet", 24_600, 70.59, "identity"),
        ("cifar100", "SENet", 150_000, 78.32, "identity"),
        ("tiny_imagenet", "SENet", 142_000, 58.9, "identity"),
        ("tiny_imagenet", "SENet", 298_000, 64.96, "identity"),
        ("cifar100", "SENet", 49_600, 75.28, "identity"),
        ("cifar100", "DELPHI", 50_100, 65.98, "quadratic"),
        ("cifar100", "SAFENet", 110_000, 67.5, "polynomial"),
        ("cifar100", "AutoReP", 12_900, 74.92, "quadratic"),
        ("cifar100", "DeepReDuce", 49_200, 69.5, "identity"),
    ],
)
def test_values_looked_up_by_hand(dataset, method, relus, accuracy, replacement):
    hits = [p for p in load_published().itertuples() if (p.dataset, p.method, p.relus) == (dataset, method, relus)]
    assert (accuracy, replacement) in {(point.accuracy, point.replacement) for point in hits}


def test_conventions_and_uncertain_rows():
    points = list(load_published().itertuples())
    assert {point.convention for point in points if point.method == "SNL"} == {"snl"}
    assert {point.convention for point in points if point.method == "SENet"} == {"senet"}
    wide = {(point.dataset, point.relus) for point in points if (point.method, point.backbone) == ("SENet", "wrn22_8")}
    assert wide == {("cifar100", 150_000)}
    assert {point.backbone for point in points if point.method == "SENet"} == {"resnet18", "wrn22_8"}
    # Rejected as doubtful: SENet's 49.1K on CIFAR-10, SNL's 240K on CIFAR-10.
    doubtful = {("cifar10", "SENet", 49_100), ("cifar10", "SNL", 240_000)}
    assert not doubtful & {(point.dataset, point.method, point.relus) for point in points}


def test_filter_by_dataset_and_image_size():
    assert set(published_for("cifar100", 32)["dataset"]) == {"cifar100"}
    assert published_for("tiny_imagenet", 32).empty
    assert published_for("digits", 8).empty
