"""The record: one JSON file per finished run. Every table and plot is made from records, never typed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from relinearize.records.schema import Count, IsoTime, Metric, Part, Percent, RecordFile, Seconds, Shape

SCHEMA_VERSION = 3  # the only one that is read
RECORD_FILE = "record.json"
OWN_BUILDER = "relinearize.backbones.build_backbone"  # what builds the project's own backbones

StageName = Literal["teacher", "search", "finetune", "sensitivity", "first", "sensitivity_first"]


class MethodRecord(Part):
    """The method's short name and the class of each of its stages."""

    name: str
    teacher: str
    search: str
    finetune: str


class DatasetRecord(Part):
    """The images: `title` is for people ("CIFAR-10 (JPEG)"), `fingerprint` a sha256 of the content."""

    name: str
    title: str
    image_size: Count
    channels: Count
    classes: Count
    train: Count
    holdout: Count
    test: Count
    fingerprint: str


class StudentRecord(Part):
    """What the linearized network has other than the teacher: its width, and the stride of its first convolution."""

    width: Count | None
    stride: Count


class BackboneRecord(Part):
    """`width`: channels of the first stage; `convention`: which ReLUs exist at all ("snl" or "senet").

    student: None where the linearized network has the teacher's width and resolution.
    """

    name: str
    width: Count | None
    convention: str
    student: StudentRecord | None = None


class BudgetRecord(Part):
    """ReLU counts per image. `met` is what the network has, `asked` what the user said, `total` the all-ReLU network's.

    `total` is more than the sites hold where the student is narrower than the teacher, or of lower resolution.
    """

    asked: Count
    met: Count
    total: Count
    reached: bool


class SiteRecord(Part):
    """One ReLU site: `shape` is C x H x W, `kept` of `total` positions are still ReLUs.

    `sensitivity`: what its share of the budget was proportional to, where the search was given such.
    """

    name: str
    shape: Shape
    total: Count
    kept: Count
    sensitivity: float | None = None

    @model_validator(mode="after")
    def _kept_within_total(self) -> Self:
        if self.kept > self.total:
            raise ValueError(f"site {self.name}: kept {self.kept} is more than its total {self.total}")
        return self


class PredictionsRecord(Part):
    """Of the test images: percent correct of each class (None: no images), expected calibration error in percent (15
    bins), mean negative log-likelihood in nats."""

    per_class: list[Percent | None]
    ece: Metric
    nll: Metric

    @property
    def worst_class(self) -> float:
        """The lowest of the classes' accuracies."""
        return min(share for share in self.per_class if share is not None)


class AccuracyRecord(Part):
    """Accuracies in percent. `test` belongs to the weights chosen by `selection`, `test_last` to the last epoch's.

    `predictions`: of the weights of `test`, and the teacher's; None: stages made before there was this.
    """

    test: Percent | None
    test_last: Percent | None
    holdout: Percent | None
    teacher_test: Percent | None
    n_test: Count
    n_holdout: Count
    selection: str
    selected_epoch: Count | None
    predictions: PredictionsRecord | None = None
    teacher_predictions: PredictionsRecord | None = None

    @property
    def objective(self) -> float | None:
        """What a run is chosen by: held-out images, without any the test images."""
        return self.test if self.holdout is None else self.holdout

    @property
    def class_spread(self) -> float | None:
        """Points between the class that lost most against the teacher and the one that lost least."""
        if self.predictions is None or self.teacher_predictions is None:
            return None
        pairs = zip(self.teacher_predictions.per_class, self.predictions.per_class, strict=True)
        losses = [before - now for before, now in pairs if now is not None]
        return max(losses) - min(losses)


class StageRecord(Part):
    """One training phase. `history` holds one row of metrics per epoch; `reused` says it came from the store."""

    key: str
    seconds: Seconds
    epochs: Count
    reused: bool
    history: list[dict[str, Metric]]


class SubmodelRecord(Part):
    """A network beside the main one of the run with key `run`: of `fraction` of its channels, or of another route.

    The budget asked of a narrower one is that of its run, and may be above its total; met is what its part of the mask
    keeps, and so no miss.
    """

    fraction: Annotated[float, Field(gt=0, le=1)]
    run: str


class HardwareRecord(Part):
    """Where the run was computed."""

    accelerator: str
    name: str
    threads: Count | None
    precision: str
    convolutions: str | None = None  # "torch" or "winograd"; None: a record from before there was a choice


class PhaseRecord(Part):
    """Predicted for one inference. bytes, of both directions, and messages: None for computation alone."""

    seconds: Seconds
    bytes: Count | None
    messages: Count | None


class PredictedRecord(Part):
    """Of one preset; offline is None where nobody knows it."""

    online: PhaseRecord
    offline: PhaseRecord | None


class CostRecord(Part):
    """What private inference of one image is made of, in counts, and what the presets of that day predicted from them.

    live_sites: sites that keep any ReLU; gathered: positions of those that keep some, but not all. affine, quadratic:
    removed positions with such a replacement, and the sites with any (see `Workload`). linear: counts by name, those
    that `LinearWork` had then (they change with what is known of the protocols); None where the network cannot be
    traced. Then `predicted`, by the preset's name, has only presets that do not depend on it.
    """

    relus: Count
    live_sites: Count
    gathered: Count
    affine: Count = 0
    affine_sites: Count = 0
    quadratic: Count = 0
    quadratic_sites: Count = 0
    quadratic_ciphertexts: Count = 0
    linear: dict[str, Count] | None
    predicted: dict[str, PredictedRecord]


class Record(RecordFile):
    """Everything one finished run leaves for tables and plots; see the module's docstring.

    Beyond the field types: the budget met equals the sum of what the sites keep, the total the sum of their totals (of
    the teacher's, where the student has another shape), and the cost is that of these sites.
    """

    FILE: ClassVar[str] = RECORD_FILE
    VERSION: ClassVar[int] = SCHEMA_VERSION
    REDO: ClassVar[str] = "run it again"

    schema_version: Literal[3]
    name: str
    created: IsoTime
    method: MethodRecord
    dataset: DatasetRecord
    backbone: BackboneRecord
    seed: int
    replacement: str
    unit: Literal["layers", "channels", "positions", "none"] | None = None  # what is removed; None: an earlier record
    zero_weights: Percent | None = None  # of the weights of convolutions and linear layers; None: an earlier record
    budget: BudgetRecord
    sites: list[SiteRecord]
    accuracy: AccuracyRecord
    stages: dict[StageName, StageRecord]
    config: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    hardware: HardwareRecord
    submodel: SubmodelRecord | None = None
    route: str | None = None  # the batch-norm route of this network, where the method has several (RLNet)
    cost: CostRecord | None = None
    files: dict[str, str] | None = None  # sha256 of config, mask and weights beside the record; None: an earlier record

    @property
    def narrower(self) -> bool:
        """Whether it is a part of its run's network (SENet++), for whose ReLUs nobody asked a budget."""
        return self.submodel is not None and self.submodel.fraction < 1

    @property
    def budget_missed(self) -> bool:
        return self.budget.met != self.budget.asked and not self.narrower

    @property
    def own_backbone(self) -> bool:
        """Whether the backbone is the project's own, so that its name says what it is."""
        return self.config.get("backbone", {}).get("_target_", OWN_BUILDER) == OWN_BUILDER

    @model_validator(mode="after")
    def _sites_add_up(self) -> Self:
        kept = sum(site.kept for site in self.sites)
        total = sum(site.total for site in self.sites)
        if kept != self.budget.met:
            raise ValueError(f"budget.met is {self.budget.met}, but the sites keep {kept}")
        if total > self.budget.total or (total < self.budget.total and self.backbone.student is None):
            raise ValueError(f"budget.total is {self.budget.total}, but the sites hold {total}")
        live = sum(site.kept > 0 for site in self.sites)
        if self.cost is not None and (self.cost.relus, self.cost.live_sites) != (kept, live):
            raise ValueError(
                f"cost counts {self.cost.relus} ReLUs at {self.cost.live_sites} sites, but {live} sites keep {kept}"
            )
        return self


def find_records(folders: Iterable[Path | str]) -> list[tuple[Path, Record]]:
    """All records below `folders`, each key once. Raises UserError where a folder is missing or holds none."""
    return Record.find(folders, required=True)
