"""What the records share: strict types, one JSON file each, read with errors of one line, found below folders.

A schema is strict (unknown or missing keys are refused, numbers are not read from strings) and versioned, so that a
plot never mixes files that mean different things by the same name. Imports neither torch nor anything that does.
"""

import logging
import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from relinearize.errors import UserError
from relinearize.files import files_below, read_json, write_json

logger = logging.getLogger(__name__)


def _finite_or_null(value: Any) -> Any:
    # JSON has no NaN; a metric that was not measured in an epoch is null.
    return None if isinstance(value, float) and not math.isfinite(value) else value


Count = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]
IsoTime = Annotated[str, AfterValidator(lambda text: datetime.fromisoformat(text) and text)]
Metric = Annotated[int | float | None, BeforeValidator(_finite_or_null)]
Shape = Annotated[tuple[int, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


class Part(BaseModel):
    """A part of a record."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class RecordFile(Part):
    """A record that is a file of its own, named `FILE`, of schema `VERSION`; `key` says whose it is.

    No other version is read. `REDO`: what a user does with a file of an earlier one.
    """

    FILE: ClassVar[str]
    VERSION: ClassVar[int]
    REDO: ClassVar[str]

    schema_version: int
    key: str

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read and check one file. Raises UserError naming the path and the first field that does not fit."""
        path = Path(path)
        values = read_json(path)
        version = values.get("schema_version") if isinstance(values, dict) else None
        if type(version) is not int:
            raise UserError(f"{path}: schema_version: {version!r}, expected {cls.VERSION}; is this a {cls.FILE}?")
        if version != cls.VERSION:
            age, advice = ("newer", "update relinearize") if version > cls.VERSION else ("older", cls.REDO)
            raise UserError(f"{path}: schema_version: {version} is {age} than this program's {cls.VERSION}; {advice}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{path}: {_first_problem(error)}") from error

    def write(self, path: Path | str) -> None:
        """Write to `path` atomically: a kill leaves the old file or the new one, never half of it."""
        write_json(Path(path), self.model_dump(mode="json"))

    @classmethod
    def find(cls, folders: Iterable[Path | str], required: bool = False) -> list[tuple[Path, Self]]:
        """All records below `folders` (a file itself may be named, too), each key once, in the order of their paths.

        A broken file is skipped with one warning line, and so is one of a key that is known with other content (of two
        machines, say). Raises UserError if a folder does not exist or, if `required`, holds no readable record.
        """
        found: dict[str, tuple[Path, Self]] = {}
        for folder in sorted({Path(folder) for folder in folders}):
            if not folder.exists():
                raise UserError(f"{folder}: no such folder; name a folder that holds {cls.FILE} files")
            paths = [folder] if folder.is_file() else files_below(folder, cls.FILE)
            problems = []
            for path in paths:
                try:
                    record = cls.read(path)
                except UserError as error:
                    problems.append(str(error))
                else:
                    known, same = found.setdefault(record.key, (path, record))
                    if record != same:
                        logger.warning("skipped: %s: the same run as %s, with other content", path, known)
            if required and not paths:
                raise UserError(f"{folder}: holds no {cls.FILE}; a finished run leaves one in its folder")
            if required and len(problems) == len(paths):
                raise UserError(f"{folder}: holds no valid record; {problems[0]}")
            for problem in problems:
                logger.warning("skipped: %s", problem)
        return sorted(found.values(), key=lambda pair: pair[0])


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=True)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return message
    shown = repr(first["input"])
    return f"{field}: {message}" + (f" (got {shown})" if first["type"] != "missing" and len(shown) <= 60 else "")
