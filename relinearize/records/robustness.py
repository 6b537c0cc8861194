"""The robust record: one JSON file per checkpoint and batch-norm route, beside the run's record, made by `evaluate`.

One row of a robustness table is one robust record: clean, corrupted and attacked accuracy of the very same network.
Strict, frozen and versioned like `records`, and as free of torch.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from relinearize.errors import UserError
from relinearize.files import write_json
from relinearize.records.run import Count, IsoTime, Metric, Percent, Seconds

ROBUST_SCHEMA_VERSION = 1
ROBUST_FILE = "robustness.json"
SEVERITIES = 5
ROUNDING = 1e-6  # of percentages that can be computed again from others in the file

Some = Annotated[int, Field(ge=1)]
BySeverity = Annotated[list[Percent], Field(min_length=SEVERITIES, max_length=SEVERITIES)]

logger = logging.getLogger(__name__)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CleanAccuracy(_Part):
    """Percent right of `n` unchanged test images."""

    accuracy: Percent
    n: Some


class AttackRecord(_Part):
    """Percent of `n` images that are right before and after one attack.

    epsilon, step: pixels times 255; null where the attack has no such setting. An image counts as right after several
    restarts or losses if it is right after each of them. `version`: of the package the attack is from, null for ours.
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


class CorruptionsRecord(_Part):
    """Percent right of `n` corrupted images at severity 1 to 5, for each of the 15 corruptions and the extra four.

    source: "generated" or "files sha256..."; constants: whose severities, "cifar" or "tiny"; left_out: of the 15, those
    that were not measured; npa: the mean over all of `accuracy`; mce: in percent, relative to `mce_anchor`, which says
    "mean error" where it is no ratio.
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


class CheckRecord(_Part):
    """One sanity check: passed or to be looked at, with the numbers that say so."""

    name: str
    passed: bool
    message: str
    numbers: dict[str, Metric]


class RobustHardware(_Part):
    """Where it was evaluated."""

    accelerator: str
    name: str


class RobustRecord(_Part):
    """What one robust evaluation leaves; see the module's docstring.

    key, name: of the record beside it. route: which batch norms ("clean", "augmix", "adversarial"), null where there is
    one set only; run: the key that all routes of one checkpoint share. title: the dataset's, for people.
    """

    schema_version: Literal[1]
    key: str
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

    @classmethod
    def read(cls, path: Path | str) -> "RobustRecord":
        """Read and check one file. Raises UserError naming the path and the first field that does not fit."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error})") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if type(version) is not int or version != ROBUST_SCHEMA_VERSION:
            newer = type(version) is int and version > ROBUST_SCHEMA_VERSION
            advice = "update relinearize" if newer else "evaluate the run again"
            raise UserError(f"{path}: schema_version: {version!r}, expected {ROBUST_SCHEMA_VERSION}; {advice}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{path}: {field + ': ' if field else ''}{message}") from error

    def write(self, path: Path | str) -> None:
        """Write to `path` atomically: a kill leaves the old file or the new one, never half of it."""
        write_json(Path(path), self.model_dump(mode="json"))


def find_robust_records(folders: Iterable[Path | str]) -> list[tuple[Path, RobustRecord]]:
    """All robust records below `folders` (a file itself may be named, too), each key once, in the order of their paths.

    There may be none: not every run was attacked. Raises UserError if a folder does not exist. A broken file is skipped
    with one warning line.
    """
    found: dict[str, tuple[Path, RobustRecord]] = {}
    for folder in sorted({Path(folder) for folder in folders}):
        if not folder.exists():
            raise UserError(f"{folder}: no such folder; name a folder that holds {ROBUST_FILE} files")
        for path in [folder] if folder.is_file() else sorted(folder.rglob(ROBUST_FILE)):
            try:
                record = RobustRecord.read(path)
            except UserError as error:
                logger.warning("skipped: %s", error)
                continue
            found.setdefault(record.key, (path, record))
    return sorted(found.values(), key=lambda pair: pair[0])
