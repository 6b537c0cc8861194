"""Known differences between a run and its published counterpart, to be stated beside the two accuracies."""

from typing import Any

from relinearize.records.run import Record
from relinearize.report.papers.counterpart import paper_method
from relinearize.report.papers.published import PublishedPoint

TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny-ImageNet"}
TRAINING_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000}

# The settings, below `method`, that the papers or their released code give; conf/method and conf/experiment/paper have
# the same, which a test holds.
RECIPES: dict[str, dict[str, Any]] = {
    "snl": {
        "teacher.epochs": 160,
        "teacher.batch_size": 256,
        "teacher.learning_rate": 0.1,
        "search.batch_size": 128,
        "search.learning_rate": 1e-3,
        "search.lasso": 1e-5,
        "search.lasso_growth": 1.1,
        "search.threshold": 1e-2,
        "finetune.epochs": 100,
        "finetune.batch_size": 128,
        "finetune.learning_rate": 1e-3,
    },
    "senet": {
        "teacher.epochs": 240,
        "teacher.batch_size": 128,
        "teacher.learning_rate": 0.05,
        "search.epochs": 150,
        "search.batch_size": 128,
        "search.learning_rate": 0.05,
        "finetune.epochs": 240,
        "finetune.batch_size": 128,
        "finetune.learning_rate": 0.01,
    },
}
TINY_IMAGENET_EPOCHS = {"teacher.epochs": 120, "search.epochs": 100, "finetune.epochs": 120}  # SENet's, as remembered


def recipe_of(method: str, dataset: str) -> dict[str, Any]:
    """Dotted keys below `method` and the values that the papers' points were made with."""
    recipe = RECIPES[method]
    return recipe | TINY_IMAGENET_EPOCHS if (method, dataset) == ("senet", "tiny_imagenet") else recipe


def differences(record: Record, point: PublishedPoint) -> list[str]:
    """What differs, each in a few words with the paper's value in brackets; what weighs most comes first."""
    dataset, found = record.dataset, []
    if dataset.title != TITLES[dataset.name]:
        found.append(f"images {dataset.title} (paper: {TITLES[dataset.name]})")
    if dataset.train != TRAINING_IMAGES[dataset.name]:
        found.append(f"{dataset.train:,} training images (paper: {TRAINING_IMAGES[dataset.name]:,})")
    found += _recipe_differences(record)
    if record.backbone.convention != point.convention:
        found.append(f"convention {record.backbone.convention} (paper: {point.convention})")
    if record.budget.met != point.relus:
        found.append(f"{record.budget.met:,} ReLUs (paper: {point.relus:,})")
    selection = record.accuracy.selection
    if selection != "test":
        chosen = {"best": "chosen on the hold-out", "last": "last epoch"}.get(selection, selection)
        found.append(f"{chosen} (released code: chosen on the test set)")
    if point.backbone == "not stated":
        found.append("the paper does not state the network of this point")
    if point.confidence != "high":
        found.append(f"the paper's number has {point.confidence} confidence")
    return found


def _recipe_differences(record: Record) -> list[str]:
    found = []
    if record.method.teacher == "file":
        found.append("teacher from a file")
    for key, value in recipe_of(paper_method(record), record.dataset.name).items():
        stage = key.split(".")[0]
        if stage == "teacher" and record.method.teacher == "file":
            continue
        ours = _setting(record.config.get("method"), key)
        if ours is not None and ours != value:
            found.append(f"{key} {ours:g} (paper: {value:g})")
    return found


def _setting(node: Any, key: str) -> float | None:
    """The number at a dotted key; None where the config, of an older program perhaps, has none."""
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    try:
        return float(node)  # YAML reads 1e-3 as a string
    except (TypeError, ValueError):
        return None
