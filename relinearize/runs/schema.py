"""The kinds of a run's config values: whatever is built from them later may take each for what it is."""

import math
import re
import unicodedata
from collections.abc import Collection
from dataclasses import fields
from difflib import get_close_matches
from pydoc import ErrorDuringImport, locate
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from relinearize.errors import UserError, first_problem, import_problem, one_line
from relinearize.records.config import entries
from relinearize.targets import TARGET, plain, present_path
from relinearize.tracking.interface import LoggerSettings

Channels = list[float] | None


def printable(text: str) -> str:
    """The text. ValueError where it has control characters, which no record can hold."""
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        raise ValueError("must have no control characters")
    return text


def file_name(text: str) -> str:
    """The text. ValueError unless it can be part of the name of a file on every system."""
    if text in (".", "..") or not text.isprintable() or set(text) & set("/\\"):
        raise ValueError("must be the name of a folder, without / and \\ and control characters")
    return text


class Keys(BaseModel):
    """Keys of a config node; those that are not named here are checked by what takes them."""

    model_config = ConfigDict(strict=True, extra="allow")


# Parts of folders' names.
Name = Annotated[str, Field(min_length=1), AfterValidator(file_name)]


class Target(Keys):
    target: Annotated[str, Field(min_length=1)] = Field(alias=TARGET)
    partial: bool = Field(False, alias="_partial_")
    recursive: bool = Field(True, alias="_recursive_")


class Search(Target):
    first: Target | None = None  # of a search that starts from another's mask


class Method(Keys):
    name: Name
    teacher: Target
    search: Search
    finetune: Target
    routes: Any = None


class Dataset(Keys):
    name: Name
    title: Annotated[str, AfterValidator(printable)]
    source: Target
    mean: Channels
    std: Channels
    augment: dict[str, Any]
    download: bool = False
    verify: bool = True
    holdout: Any = 0
    subset: Any = None
    short_batch: bool = False
    resident: Any = "auto"
    resident_limit_gb: Annotated[float, Field(ge=0)] | None = None
    workers: Annotated[int, Field(ge=0)] = 2


class Backbone(Target):
    name: Name
    weights: str | None = None
    student_skip: bool = True


class Budget(Keys):
    grid: list[Any]
    relus: Any = None
    fraction: Any = None


class TeacherFile(Keys):
    weights: str | None


class Choice(Keys):
    """A group whose files need no class."""

    name: str


class Trainer(Keys):
    accelerator: Any = "auto"
    precision: Any = "auto"
    devices: Any = 1
    compile: Any = "auto"
    convolutions: Any = "auto"
    progress: Any = "auto"
    lightning: Any = None
    channels_last: bool = True
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60
    # OpenMP ends the process where it gets no more threads.
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] | None = "auto"


class RunConfig(Keys):
    """conf/config.yaml with the files that it chose."""

    seed: Any
    output: Annotated[str, Field(min_length=1)]
    store: Annotated[str, Field(min_length=1)]
    total_epochs: Any = None
    sweep: Name | None = None
    repair: bool = False
    teacher: TeacherFile
    sensitivity: dict[str, Any] | None = None
    score: Target | None = None
    method: Method
    dataset: Dataset
    backbone: Backbone
    budget: Budget
    trainer: Trainer
    logger: Choice
    allocation: Choice | None = None
    replacement: Choice | None = None
    callbacks: dict[str, Any] | None = None


# Paths, where a ~ is taken as it is, as wherever a key is called `file`; other classes expand it.
PATHS = ("output", "store", "teacher.weights", "backbone.weights")
# Groups whose keys are all named here: no class of a user's takes others.
CLOSED = ("method", "dataset", "budget", "teacher", "trainer")


def checked(config: DictConfig) -> dict[str, Any]:
    """The config as plain values. UserError naming the first that is of another kind, or no finite number."""
    try:
        values = plain(config)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error
    for key, value in entries(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value}: must be a finite number")
        if (key in PATHS or key.endswith(".file")) and str(value).startswith("~"):
            raise UserError(f"{key}={value}: a ~ is for the command line only; give the whole path")
        if key.endswith(f".{TARGET}") and not isinstance(value, str):
            raise UserError(f"{key}={'null' if value is None else value}: must be MODULE.NAME of a class or a function")
    try:
        RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(first_problem(error, values)) from error
    return values


def check_unknown(config: DictConfig, groups: Collection[str]) -> None:
    """UserError for the first key that is none of ours and that no other key refers to: `sede: 1`, `trainer.device: 2`.

    `config`: as composed, its interpolations unresolved; `groups`: names of config groups. An experiment file may have
    variables of its own; keys that a class takes are checked by that class.
    """
    texts = str(OmegaConf.to_container(config, resolve=False))
    of_no_class = [group for group in ("allocation", "replacement") if TARGET not in (config.get(group) or {TARGET})]
    known = {
        "": (*RunConfig.model_fields, *groups),
        **{f"{group}.": RunConfig.model_fields[group].annotation.model_fields for group in CLOSED},
        "logger.": [field.name for field in fields(LoggerSettings) if field.name != "output"],
        **{f"{group}.": Choice.model_fields for group in of_no_class},
    }
    for prefix, names in known.items():
        node = config[prefix.rstrip(".")] if prefix else config
        for name in node if isinstance(node, DictConfig) else ():
            if name not in names and not re.search(rf"\$\{{{re.escape(prefix + name)}[}}.[]", texts):
                near = "".join(f"; did you mean {prefix}{one}?" for one in get_close_matches(name, names, 1))
                raise UserError(f"{prefix}{name}={node[name]}: no such key, and no other key refers to it{near}")


def check_targets(values: dict[str, Any], *groups: str) -> None:
    """UserError for the first `_target_` of these groups, or of all, that names no class or function. Imports them."""
    for key, path in entries({group: values.get(group) for group in groups or values}):
        if key.endswith(f".{TARGET}"):
            try:
                found = locate(present_path(path))
            except ErrorDuringImport as error:
                raise UserError(f"{key}={path} cannot be imported: {import_problem(error.value)}") from error
            if not callable(found):
                raise UserError(f"{key}={path} is no class and no function; give MODULE.NAME of one")
