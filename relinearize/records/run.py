"""The record: one JSON file per finished run. Every table and plot is made from records, never typed.

The schema is strict (unknown or missing keys are refused, numbers are not read from strings) and versioned, so that a
plot never mixes files that mean different things by the same name. Imports neither torch nor anything that does.
"""

import json
import logging
import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from relinearize.errors import UserError
from relinearize.files import write_json

SCHEMA_VERSION = 3  # 2: the stage "sensitivity" and each site's value, sub-models; 3: cost
READABLE_VERSIONS = (1, 2, 3)
RECORD_FILE = "record.json"
OWN_BUILDER = "relinearize.backbones.build_backbone"  # what builds the project's own backbones

logger = logging.getLogger(__name__)


def _iso_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _finite_or_null(value: Any) -> Any:
    # JSON has no NaN; a metric that was not measured in an epoch is null.
    return None if isinstance(value, float) and not math.isfinite(value) else value


Count = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]
IsoTime = Annotated[str, AfterValidator(_iso_time)]
Metric = Annotated[int | float | None, BeforeValidator(_finite_or_null)]
Shape = Annotated[tuple[int, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
StageName = Literal["teacher", "search", "finetune", "sensitivity"]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class MethodRecord(_Part):
    """The method's short name and the class of each of its stages."""

    name: str
    teacher: str
    search: str
    finetune: str


class DatasetRecord(_Part):
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


class BackboneRecord(_Part):
    """`width`: channels of the first stage; `convention`: which ReLUs exist at all ("snl" or "senet")."""

    name: str
    width: Count | None
    convention: str


class BudgetRecord(_Part):
    """ReLU counts per image. `met` is what the network has, `asked` what the user said."""

    asked: Count
    met: Count
    total: Count
    reached: bool


class SiteRecord(_Part):
    """One ReLU site: `shape` is C x H x W, `kept` of `total` positions are still ReLUs.

    `sensitivity`: what its share of the budget was proportional to, where the search was given such (since version 2).
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


class AccuracyRecord(_Part):
    """Accuracies in percent. `test` belongs to the weights chosen by `selection`, `test_last` to the last epoch's."""

    test: Percent | None
    test_last: Percent | None
    holdout: Percent | None
    teacher_test: Percent | None
    n_test: Count
    n_holdout: Count
    selection: str
    selected_epoch: Count | None


class StageRecord(_Part):
    """One training phase. `history` holds one row of metrics per epoch; `reused` says it came from the store."""

    key: str
    seconds: Seconds
    epochs: Count
    reused: bool
    history: list[dict[str, Metric]]


class SubmodelRecord(_Part):
    """A network beside the main one of the run with key `run`: of `fraction` of its channels, or of another route.

    The budget of a narrower one is not asked for by anybody: asked is what its part of the mask keeps.
    """

    fraction: Annotated[float, Field(gt=0, le=1)]
    run: str


class HardwareRecord(_Part):
    """Where the run was computed."""

    accelerator: str
    name: str
    threads: Count | None
    precision: str
    convolutions: str | None = None  # "torch" or "winograd"; None: a record from before there was a choice


class PhaseRecord(_Part):
    """Predicted for one inference. bytes, of both directions, and messages: None for computation alone."""

    seconds: Seconds
    bytes: Count | None
    messages: Count | None


class PredictedRecord(_Part):
    """Of one preset; offline is None where nobody knows it."""

    online: PhaseRecord
    offline: PhaseRecord | None


class CostRecord(_Part):
    """What private inference of one image is made of, in counts, and what the presets of that day predicted from them.

    live_sites: sites that keep any ReLU; gathered: positions of those that keep some, but not all. linear: counts by
    name, those that `LinearWork` had then (they change with what is known of the protocols);
    None where the network cannot be traced. Then `predicted`, by the preset's name, has only presets that do not
    depend on it.
    """

    relus: Count
    live_sites: Count
    gathered: Count
    linear: dict[str, Count] | None
    predicted: dict[str, PredictedRecord]


class Record(_Part):
    """Everything one finished run leaves for tables and plots; see the module's docstring.

    Beyond the field types: the budget met equals the sum of what the sites keep, the total the sum of their totals, and
    the cost is that of these sites.
    """

    schema_version: Literal[1, 2, 3]
    key: str
    name: str
    created: IsoTime
    method: MethodRecord
    dataset: DatasetRecord
    backbone: BackboneRecord
    seed: int
    replacement: str
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
    cost: CostRecord | None = None  # since version 3

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
        if total != self.budget.total:
            raise ValueError(f"budget.total is {self.budget.total}, but the sites hold {total}")
        live = sum(site.kept > 0 for site in self.sites)
        if self.cost is not None and (self.cost.relus, self.cost.live_sites) != (kept, live):
            raise ValueError(
                f"cost counts {self.cost.relus} ReLUs at {self.cost.live_sites} sites, but {live} sites keep {kept}"
            )
        return self

    @classmethod
    def read(cls, path: Path | str) -> "Record":
        """Read and check one file. Raises UserError naming the path and the first field that does not fit."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}: not a record (a JSON object is expected)")
        _check_version(path, values.get("schema_version"))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{path}: {_first_problem(error)}") from error

    def write(self, path: Path | str) -> None:
        """Write to `path` atomically: a kill leaves the old file or the new one, never half of it."""
        write_json(Path(path), self.model_dump(mode="json"))


def _check_version(path: Path, version: Any) -> None:
    if type(version) is not int:
        raise UserError(f"{path}: schema_version: {version!r}, expected {SCHEMA_VERSION}; is this a record of a run?")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version: {version} is newer than this program's {SCHEMA_VERSION}; update relinearize"
        )
    if version not in READABLE_VERSIONS:
        raise UserError(
            f"{path}: schema_version: {version} is older than this program's {SCHEMA_VERSION}; run it again"
        )


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=True)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return message
    shown = repr(first["input"])
    return f"{field}: {message}" + (f" (got {shown})" if first["type"] != "missing" and len(shown) <= 60 else "")


def find_records(folders: Iterable[Path | str]) -> list[tuple[Path, Record]]:
    """All records below `folders` (a record file itself may be named, too), each key once, in the order of their paths.

    Raises UserError if a folder does not exist or holds no readable record. A broken record among good ones is
    skipped with one warning line.
    """
    found: dict[str, tuple[Path, Record]] = {}
    for folder in sorted({Path(folder) for folder in folders}):
        if not folder.exists():
            raise UserError(f"{folder}: no such folder; name a folder that holds {RECORD_FILE} files")
        paths = [folder] if folder.is_file() else sorted(folder.rglob(RECORD_FILE))
        good, problems = 0, []
        for path in paths:
            try:
                record = Record.read(path)
            except UserError as error:
                problems.append(str(error))
                continue
            good += 1
            found.setdefault(record.key, (path, record))
        if not paths:
            raise UserError(f"{folder}: holds no {RECORD_FILE}; a finished run leaves one in its folder")
        if not good:
            raise UserError(f"{folder}: holds no valid record; {problems[0]}")
        for problem in problems:
            logger.warning("skipped: %s", problem)
    return sorted(found.values(), key=lambda pair: pair[0])
