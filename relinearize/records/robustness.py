"""The robust record: one JSON file per checkpoint and batch-norm route, beside the run's record, made by `evaluate`.

One row of a robustness table is one robust record: clean, corrupted and attacked accuracy of the very same network.
Strict, frozen and versioned (see schema.py), and free of torch.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from relinearize.records.schema import Count, IsoTime, Metric, Part, Percent, RecordFile, Seconds

ROBUST_SCHEMA_VERSION = 1
ROBUST_FILE = "robustness.json"
SEVERITIES = 5
ROUNDING = 1e-6  # of percentages that can be computed again from others in the file

Some = Annotated[int, Field(ge=1)]
BySeverity = Annotated[list[Percent], Field(min_length=SEVERITIES, max_length=SEVERITIES)]


class CleanAccuracy(Part):
    """Accuracy on `n` unchanged test images."""

    accuracy: Percent
    n: Some


class AttackRecord(Part):
    """Robust accuracy: percent of `n` images classified correctly before and after one attack.

    epsilon, step: pixels times 255; null where the attack has no such setting. With several restarts or losses an image
    counts if it is classified correctly after each of them. `version`: of the attack's package, null for ours.
    """

    name: str
    label: str
    epsilon: Annotated[float, Field(ge=0)] | None
    step: Annotated[float, Field(ge=0)] | None
    steps: Count | None
    restarts: Count | None
    losses: list[str]
    version: str | None
    n: Some
    seed: int
    accuracy: Percent
    seconds: Seconds


class CorruptionsRecord(Part):
    """Accuracy on `n` corrupted images at severity 1 to 5, for each of the 15 corruptions and the extra four.

    source: "generated", "files sha256..." or "generated with frost sha256..." (of its photographs; older records do not
    name them); constants: whose severities, "cifar" or "tiny"; left_out: of the 15, those that were not measured; npa:
    the mean over all of `accuracy`; mce: in percent, relative to `mce_anchor`, which says "mean error" where it is no
    ratio.
    """

    source: str
    constants: str
    seed: int
    n: Some
    left_out: list[str]
    accuracy: Annotated[dict[str, BySeverity], Field(min_length=1)]
    extra: dict[str, BySeverity]
    npa: Percent
    mce: Annotated[float, Field(ge=0)]
    mce_anchor: str

    @model_validator(mode="after")
    def _npa_is_the_mean(self) -> Self:
        values = [value for severities in self.accuracy.values() for value in severities]
        if abs(self.npa - sum(values) / len(values)) > ROUNDING:
            raise ValueError(f"npa is {self.npa}, but the mean over accuracy is {sum(values) / len(values)}")
        if both := set(self.left_out) & set(self.accuracy):
            raise ValueError(f"{min(both)} is measured and left_out")
        return self


class CheckRecord(Part):
    """One sanity check: passed or to be looked at, with the numbers that say so."""

    name: str
    passed: bool
    message: str
    numbers: dict[str, Metric]


class RobustHardware(Part):
    """Where it was evaluated."""

    accelerator: str
    name: str


class RobustRecord(RecordFile):
    """What one robust evaluation leaves; see the module's docstring.

    key, name: of the record beside it. route: which batch norms ("clean", "augmix", "adversarial"), null where there is
    one set only; run: the key that all routes of one checkpoint share. title: the dataset's, for people.
    """

    FILE: ClassVar[str] = ROBUST_FILE
    VERSION: ClassVar[int] = ROBUST_SCHEMA_VERSION
    REDO: ClassVar[str] = "evaluate the run again"

    schema_version: Literal[1]
    name: str
    method: str
    route: str | None
    run: str
    dataset: str
    title: str
    backbone: str
    width: Count | None
    convention: str
    relus: Count
    total: Count
    seed: int
    clean: CleanAccuracy
    attacks: list[AttackRecord]
    corruptions: CorruptionsRecord | None
    checks: list[CheckRecord]
    evaluation: dict[str, Any]
    created: IsoTime
    seconds: Seconds
    versions: dict[str, str]
    hardware: RobustHardware
    git_commit: str | None

    @model_validator(mode="after")
    def _attacks_once(self) -> Self:
        names = [attack.name for attack in self.attacks]
        if len(set(names)) != len(names):
            raise ValueError(f"attacks: a name occurs twice in {', '.join(names)}")
        if self.relus > self.total:
            raise ValueError(f"relus is {self.relus}, more than its total {self.total}")
        return self
