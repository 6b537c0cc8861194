"""Which published point a run reproduces, if any: one of the same method, dataset, network and budget.

Another width is another network, and another search or fine-tuning another method, whatever the run's name. The
counting convention, recipe and images may differ: `differences` lists them.
"""

from dataclasses import dataclass

from relinearize.records.run import Record
from relinearize.report.papers.published import PublishedPoint, published_for

# Published counts are what the papers met (12.9K, 49.4K) after asking for round numbers (13K, 50K), or are rounded.
BUDGET_TOLERANCE = 0.02
PAPER_WIDTHS = {"resnet18": 64, "resnet34": 64, "wrn22_8": 16, "vgg16_bn": 64}
# SNL's figure does not say which of its networks a point is of.
NOT_STATED = {"SNL": ("resnet18", "wrn22_8")}


@dataclass(frozen=True)
class PaperMethod:
    """A paper's name for a method, and the classes of our stages that are it."""

    name: str
    teacher: str
    search: str
    finetune: str


PAPER_METHODS = {
    "snl": PaperMethod("SNL", "Classifier", "SNLSearch", "Distill"),
    "senet": PaperMethod("SENet", "Classifier", "SENetSearch", "PRAMDistill"),
}
UNKNOWN_NUMBERS = {"senetpp": "SENet++", "rlnet": "RLNet"}


def paper_method(record: Record) -> str | None:
    """The key of PAPER_METHODS that a run is, by its method's name or, of a combination of stages, by its stages."""
    if record.method.name in PAPER_METHODS:
        return record.method.name
    stages = (record.method.search, record.method.finetune)
    alike = (name for name, method in PAPER_METHODS.items() if (method.search, method.finetune) == stages)
    return next(alike, None)


def counterpart(record: Record) -> tuple[PublishedPoint | None, str]:
    """The published point nearest to the run, or None and, in a few words, why there is none."""
    name, backbone = record.method.name, record.backbone
    points = published_for(record.dataset.name, record.dataset.image_size)
    if not points:
        return None, f"nothing is published on {record.dataset.title} at {record.dataset.image_size} pixels"
    if name in UNKNOWN_NUMBERS:
        return None, f"no accuracies of {UNKNOWN_NUMBERS[name]} are known"
    known = paper_method(record)
    if known is None:
        return None, f"{name} is no paper's method"
    method = PAPER_METHODS[known]
    for stage in ("search", "finetune", "teacher"):
        used, papers = getattr(record.method, stage), getattr(method, stage)
        if used != papers and (stage, used) != ("teacher", "file"):
            return None, f"{stage} is {used}, {method.name}'s is {papers}"
    allocation = record.config.get("allocation", {"name": "free"})["name"]
    if allocation != "free":
        return None, f"allocation is {allocation}, {method.name}'s is free"
    points = [point for point in points if point.method == method.name and _same_network(point, backbone.name)]
    if not points:
        return None, f"{method.name} has no point with {backbone.name} on this dataset"
    if backbone.width != PAPER_WIDTHS[backbone.name]:
        return None, f"width {backbone.width}, the paper's is {PAPER_WIDTHS[backbone.name]}"
    if record.replacement != "identity":
        return None, f"replacement is {record.replacement}, the paper's is identity"
    met = record.budget.met
    nearest = min(points, key=lambda point: abs(point.relus - met))
    if abs(nearest.relus - met) > BUDGET_TOLERANCE * nearest.relus:
        return None, f"{met:,} ReLUs; the nearest published budget is {nearest.relus:,}"
    return nearest, ""


def _same_network(point: PublishedPoint, backbone: str) -> bool:
    return point.backbone == backbone or (
        point.backbone == "not stated" and backbone in NOT_STATED.get(point.method, ())
    )
