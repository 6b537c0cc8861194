"""What an evaluation is asked for: a run, and checked settings (conf/evaluation, conf/attack, conf/corruptions)."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from relinearize.errors import check_radius

Images = Annotated[int, Field(ge=1)]
Names = Annotated[list[str], BeforeValidator(lambda names: [names] if isinstance(names, str) else names)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class RobustSettings:
    """The keys of conf/evaluation/robust.yaml, which says what they mean; strictly typed."""

    attacks: Names
    epsilon: Annotated[float, Field(gt=0, le=255)]
    n_clean: Images | None
    n_attack: Images | None
    n_autoattack: Images | None
    corruptions: str
    n_corruptions: Images | None
    checks: bool
    n_checks: Images
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    chunk: Images | None

    @field_validator("epsilon")
    @classmethod
    def _in_pixels(cls, epsilon: float) -> float:
        check_radius("evaluation.epsilon", epsilon)
        return epsilon

    @field_validator("attacks")
    @classmethod
    def _each_once(cls, attacks: list[str]) -> list[str]:
        if len(set(attacks)) != len(attacks):
            raise ValueError("names an attack twice")
        return attacks


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one run; `robust` is None for a clean one.

    attacks: name -> its settings with `_target_`; corruptions: the same of their source, None for none.
    """

    folder: Path
    accelerator: str
    root: str | None
    trust: bool
    batch_size: int | None
    robust: RobustSettings | None = None
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    corruptions: dict[str, Any] | None = None
