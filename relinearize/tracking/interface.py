"""What a logger is given (settings, a stage, what it was made from) and what it does with it (StageLogger)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relinearize.errors import UserError, check_choice
from relinearize.records.run import Record
from relinearize.records.store import KEY_LENGTH, Artifact

LOGGERS = ("csv", "wandb", "none")
MODES = ("online", "offline", "disabled")


LONGEST_TAG = 64  # W&B refuses longer ones


@dataclass(frozen=True)
class LoggerSettings:
    """The `logger` group; all but `name` and `output` are W&B's. `output`: the folder of all results."""

    name: str
    output: Path
    project: str | None = None
    entity: str | None = None
    mode: str = "online"
    group: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("logger.name", self.name, LOGGERS)
        check_choice("logger.mode", self.mode, MODES)
        for key in ("project", "entity", "group"):
            if not isinstance(getattr(self, key), str | None):
                raise UserError(f"logger.{key}={getattr(self, key)}: must be a text, or null")
        if not isinstance(self.tags, list | tuple) or not all(isinstance(tag, str) for tag in self.tags):
            raise UserError(f"logger.tags={self.tags}: must be a list of texts, such as [a,b]")
        for tag in self.tags:
            if not 0 < len(tag) <= LONGEST_TAG:
                raise UserError(f"logger.tags: {tag!r} must have 1 to {LONGEST_TAG} letters")


@dataclass(frozen=True)
class StageInfo:
    """The result of a stage, finished or to be; of a search: what it has at one budget.

    Args:
        stage: teacher, sensitivity, search or finetune.
        artifact: its place in the store.
        name: of the result: teacher-resnet18-cifar10-s0, snlsearch-resnet18-cifar10-s0-50k.
        title, group, tags: of its W&B run.
        files: kind ("mask", "weights") -> file in the store.
        inputs: what the stage is made from.
        config: the complete config of the run, as plain values.
    """

    stage: str
    artifact: Artifact
    name: str
    title: str
    group: str
    tags: tuple[str, ...]
    files: Mapping[str, Path]
    inputs: tuple["StageInfo", ...]
    config: Mapping[str, Any]

    @property
    def alias(self) -> str:
        """The key's first digits: they tell versions of one name apart, and are part of the name of its folder."""
        return self.artifact.key[:KEY_LENGTH]

    @property
    def run_id(self) -> str:
        """The W&B run's id. All budgets of one search share a run."""
        return f"{self.stage}-{self.alias}"

    @property
    def in_store(self) -> bool:
        """Whether it is finished, with all that it is made from."""
        return self.artifact.complete and all(one.in_store for one in self.inputs)


class StageLogger:
    """Of one stage; this one keeps nothing beyond what the records hold anyway."""

    def rows(self, history: list[dict[str, float]]) -> None:
        """An epoch has ended: the metrics of all epochs so far, the last one new."""

    def finish(self, record: Record, folder: Path) -> None:
        """The run has ended; `folder` holds its mask and weights."""

    def lightning(self) -> Any:
        """A Lightning logger for what callbacks of the `callbacks` group log, or None."""
