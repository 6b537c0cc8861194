"""Sensitivities that need no training: released, uniform, proportional to size, or given by the user.

A sensitivity eta_l >= 0 says how much of the budget site l deserves (`relu.allocation.allocate`); only ratios matter.
Each class has `sensitivities(shapes, backbone)`: `shapes` is site -> (C, H, W) in forward order, `backbone` its
name; the result has the same sites in the same order. The one that is computed is a training: sparse_training.py.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from relinearize.errors import UserError, check_choice


class Uniform:
    """Every site gets the same number of ReLUs (until it is full)."""

    def sensitivities(self, shapes: Mapping[str, tuple[int, ...]], backbone: str) -> dict[str, float]:
        return dict.fromkeys(shapes, 1.0)


class Proportional:
    """Every site keeps the same fraction of its ReLUs: eta is its number of positions."""

    def sensitivities(self, shapes: Mapping[str, tuple[int, ...]], backbone: str) -> dict[str, float]:
        return {name: float(math.prod(shape)) for name, shape in shapes.items()}


class Given:
    """What the user says: a list in forward order or a mapping from every site to its number.

    Settings: conf/sensitivity/list.yaml. Raises UserError, at once, unless exactly one is given and a file can be read.
    """

    def __init__(
        self,
        values: Sequence[float] | Mapping[str, float] | None = None,
        file: str | Path | None = None,
        fractions: bool = False,
    ) -> None:
        check_choice("sensitivity.fractions", fractions, (True, False))
        if (values is None) == (file is None):
            raise UserError(
                "sensitivity=list needs either sensitivity.values (a list in forward order, or site: number) or "
                f"sensitivity.file (a YAML file with one of these), not {'neither' if values is None else 'both'}"
            )
        self.where = "sensitivity.values" if file is None else f"sensitivity.file={file}"
        self.values = values if file is None else _read(Path(file))
        self.fractions = fractions

    def sensitivities(self, shapes: Mapping[str, tuple[int, ...]], backbone: str) -> dict[str, float]:
        """Raises UserError where length, sites or numbers do not fit."""
        values = self._by_site(shapes)
        numbers = {name: self._number(name, values[name]) for name in shapes}
        if self.fractions:
            above = next((name for name, share in numbers.items() if share > 1), None)
            if above is not None:
                raise UserError(f"{self.where}: {numbers[above]} for site {above} is no share; give at most 1")
            numbers = {name: float(int(share * math.prod(shapes[name]))) for name, share in numbers.items()}
        if not any(numbers.values()):
            raise UserError(f"{self.where}: all numbers are 0; at least one site needs one above 0")
        return numbers

    def _by_site(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, object]:
        if isinstance(self.values, Mapping):
            missing = [name for name in shapes if name not in self.values]
            unknown = [str(name) for name in self.values if name not in shapes]
            if missing or unknown:
                raise UserError(
                    f"{self.where}: sites without a number [{', '.join(missing)}], unknown sites "
                    f"[{', '.join(unknown)}]; the network has {', '.join(shapes)}"
                )
            return self.values
        if isinstance(self.values, str) or not isinstance(self.values, Sequence):
            raise UserError(
                f"{self.where}: {self.values!r} is neither a list of numbers in forward order nor a mapping of sites"
            )
        if len(self.values) != len(shapes):
            raise UserError(
                f"{self.where}: {len(self.values)} numbers, but the network has {len(shapes)} sites: "
                f"{', '.join(shapes)}"
            )
        return dict(zip(shapes, self.values, strict=True))

    def _number(self, name: str, value: object) -> float:
        try:
            # YAML reads 1e-3 (without a point) as text.
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise UserError(f"{self.where}: {value!r} for site {name} is not a finite number of at least 0")
        return number


def _read(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"sensitivity.file={path} cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise UserError(
            f"sensitivity.file={path} is no YAML file{place}; give a list of numbers or lines of site: number"
        ) from error
