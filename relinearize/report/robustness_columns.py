"""The columns of the robustness table, and the values in them with everything they stand on.

A column holds values that may be compared: an attack at another radius, or with other steps, is another column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relinearize.experiment.robust_records import AttackRecord, CleanAccuracy, CorruptionsRecord, RobustRecord

# Shown in every table, a dash where they were not run: column -> its title.
STANDARD_ATTACKS = {"fgsm": "FGSM", "pgd20": "PGD-20", "pgd100x5": "PGD-100 x 5", "autoattack": "AutoAttack"}
MEANS = {"ca": "CA", "npa": "NPA", "mce": "mCE"}
CORRUPTIONS = 15  # NPA and mCE are means over these, times five severities
_SETTINGS = ("epsilon", "step", "steps", "restarts", "losses", "version")
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Measure:
    """One value in percent, of `n` images. `basis`: what must be equal in two of them for a comparison or a mean.

    `note`: the same for people, short. `interval`: points to the farther end of the 95 % interval; None where the
    value is no share of n images. `deviation`: sample standard deviation over `seeds` checkpoints, if several.
    """

    value: float
    n: int
    basis: tuple
    note: str
    interval: float | None = None
    deviation: float | None = None
    seeds: int = 1

    def __str__(self) -> str:
        return f"{self.value:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")


@dataclass(frozen=True)
class Column:
    """`key` names it in files, `title` for people; `settings`: those of its attack, empty if it is none or none ran."""

    key: str
    title: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def lower_is_better(self) -> bool:
        return self.key == "mce"

    @property
    def is_attack(self) -> bool:
        return self.key not in MEANS

    @property
    def described(self) -> str:
        """The attack's settings in words: "ε 8/255, step 2/255, 20 steps, 1 restart, loss ce"."""
        words = [_described(name, value) for name, value in self.settings if value is not None and value != ()]
        return ", ".join(words)


def columns_of(records: Sequence[RobustRecord]) -> list[Column]:
    """CA, NPA, mCE, the standard attacks (whether run or not), then all others by name."""
    found: dict[str, set[Column]] = {}
    for record in records:
        for attack in record.attacks:
            column = _column(attack)
            found.setdefault(column.key, set()).add(column)
    columns = [Column(key, title) for key, title in MEANS.items()]
    for key in (*STANDARD_ATTACKS, *sorted(set(found) - set(STANDARD_ATTACKS))):
        alike = sorted(found.get(key, {Column(key, STANDARD_ATTACKS.get(key, key))}), key=repr)
        columns += alike if len(alike) == 1 else _told_apart(alike)
    return columns


def measures_of(record: RobustRecord, columns: Sequence[Column]) -> dict[str, Measure]:
    """Column key -> value; what was not measured is missing."""
    cells = {"ca": _share(record.clean)}
    corruptions = record.corruptions
    if corruptions is not None:
        n, left_out = corruptions.n, tuple(corruptions.left_out)
        basis = (corruptions.source, corruptions.constants, corruptions.seed, left_out, n)
        cells["npa"] = Measure(corruptions.npa, n, basis, f"{source_note(corruptions)}, n {n:,}")
        anchor = corruptions.mce_anchor
        cells["mce"] = Measure(corruptions.mce, n, (*basis, anchor), f"anchor: {anchor}")
    by_attack = {(column.key.split(" ")[0], column.settings): column.key for column in columns if column.is_attack}
    for attack in record.attacks:
        own = _column(attack)
        cells[by_attack[own.key, own.settings]] = _share(attack, attack.seed)
    return cells


def source_note(corruptions: CorruptionsRecord) -> str:
    """Where corrupted images are from and which are missing: "generated with cifar constants, 14 of 15, no frost"."""
    source = corruptions.source.split()[0]
    if corruptions.constants and source == "generated":
        source += f" with {corruptions.constants} constants"
    left_out = list(corruptions.left_out)
    if not left_out:
        return f"{source}, all {CORRUPTIONS}"
    return f"{source}, {CORRUPTIONS - len(left_out)} of {CORRUPTIONS}, no {', '.join(left_out)}"


def interval_95(accuracy: float, n: int) -> float:
    """Points from `accuracy` (percent of n images) to the farther end of Wilson's 95 % interval."""
    share, z = accuracy / 100, _NORMAL_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return 100 * (half + abs(centre - share))


def _share(measured: CleanAccuracy | AttackRecord, *basis: int) -> Measure:
    n = measured.n
    return Measure(measured.accuracy, n, (n, *basis), f"n {n:,}", interval_95(measured.accuracy, n))


def _column(attack: AttackRecord) -> Column:
    """An attack's column. The standard PGDs are known by their settings, whatever the config called them."""
    key, title, losses = attack.name.replace(" ", "_"), attack.label, tuple(attack.losses)
    if key.startswith("pgd"):
        if (attack.steps, attack.restarts or 1, losses) == (20, 1, ("ce",)):
            key = "pgd20"
        elif (attack.steps, attack.restarts, set(losses)) == (100, 5, {"ce", "margin"}):
            key = "pgd100x5"
        elif key in STANDARD_ATTACKS:
            key += "_other"
    settings = {name: getattr(attack, name) for name in _SETTINGS} | {"losses": losses}
    return Column(key, STANDARD_ATTACKS.get(key, title), tuple(settings.items()))


def _told_apart(alike: Sequence[Column]) -> list[Column]:
    """One attack under several settings: what differs goes into the names."""
    differing = [name for name in _SETTINGS if len({repr(dict(column.settings)[name]) for column in alike}) > 1]
    named = []
    for column in alike:
        values = dict(column.settings)
        words = [_described(name, values[name]) or f"no {name}" for name in differing]
        named.append(Column(f"{column.key} {', '.join(words)}", f"{column.title}, {', '.join(words)}", column.settings))
    return named


def _described(name: str, value: Any) -> str:
    if value is None or value == ():
        return ""
    if name in ("epsilon", "step"):
        return f"{'ε' if name == 'epsilon' else 'step'} {value:g}/255"
    if name in ("steps", "restarts"):
        return f"{value} {name[:-1] if value == 1 else name}"
    if name == "losses":
        return f"loss {' and '.join(value)}" + (", worst case" if len(value) > 1 else "")
    return f"version {value}"
