"""The columns of the robustness table, and the values in them with everything they stand on.

A column holds values that may be compared: an attack at another radius, or with other steps, is another column, and so
is the mean over other corrupted images, or over fewer corruptions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relinearize.records.robustness import AttackRecord, CleanAccuracy, CorruptionsRecord, RobustRecord

# Shown in every table, a dash where they were not run: column -> its title.
STANDARD_ATTACKS = {"fgsm": "FGSM", "pgd20": "PGD-20", "pgd100x5": "PGD-100 x 5", "autoattack": "AutoAttack"}
MEANS = {"ca": "CA", "npa": "NPA", "mce": "mCE"}
CORRUPTIONS = 15  # NPA and mCE are means over these, times five severities
_ATTACK_SETTINGS = ("epsilon", "step", "steps", "restarts", "losses", "version")
_DIGITS = 8  # of a file's checksum: enough to tell two apart
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Measure:
    """One value in percent, of `n` images; `seed`: of the attack's or the corruptions' random numbers, if any.

    `note`: for people, short. `interval`: points to the farther end of the 95 % interval; None where the value is no
    share of n images. `deviation`: sample standard deviation over `seeds` checkpoints, if several.
    """

    value: float
    n: int
    note: str
    seed: int | None = None
    interval: float | None = None
    deviation: float | None = None
    seeds: int = 1

    @property
    def basis(self) -> tuple[int, int | None]:
        """What must be equal in two of one column for a comparison or a mean."""
        return self.n, self.seed

    def __str__(self) -> str:
        return f"{self.value:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")


@dataclass(frozen=True)
class Column:
    """`key` names it in files, `title` for people.

    `settings`: of its attack or its corrupted images; empty for clean accuracy and where nothing was measured.
    """

    key: str
    title: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The key without the settings that tell it from others of its name: "npa", "pgd20"."""
        return self.key.split(" ")[0]

    @property
    def lower_is_better(self) -> bool:
        return self.name == "mce"

    @property
    def is_attack(self) -> bool:
        return self.name not in MEANS

    @property
    def described(self) -> str:
        """The settings in words: "ε 8/255, step 2/255, 20 steps, 1 restart, loss ce"."""
        return ", ".join(filter(None, (_described(name, value) for name, value in self.settings)))


def columns_of(records: Sequence[RobustRecord]) -> list[Column]:
    """CA, NPA, mCE, the standard attacks (whether run or not), then all others by name."""
    found: dict[str, set[Column]] = {}
    for record in records:
        corrupted = [] if record.corruptions is None else _corrupted_columns(record.corruptions)
        for column in (*corrupted, *map(_attack_column, record.attacks)):
            found.setdefault(column.key, set()).add(column)
    titles = MEANS | STANDARD_ATTACKS
    columns = []
    for key in (*titles, *sorted(set(found) - set(titles))):
        alike = sorted(found.get(key, {Column(key, titles.get(key, key))}), key=_place)
        columns += alike if len(alike) == 1 else _told_apart(alike)
    return columns


def _place(column: Column) -> list[tuple[bool, float, str]]:
    """Where a column stands among others of its key: numbers in their order, not in that of their digits."""
    numbers = [value if isinstance(value, int | float) else 0.0 for _, value in column.settings]
    return [
        (value is not None, number, repr(value)) for (_, value), number in zip(column.settings, numbers, strict=True)
    ]


def measures_of(record: RobustRecord, columns: Sequence[Column]) -> dict[str, Measure]:
    """Column key -> value; what was not measured is missing."""
    keys = {(column.name, column.settings): column.key for column in columns}
    cells = {"ca": _share(record.clean)}
    corruptions = record.corruptions
    if corruptions is not None:
        n, seed = corruptions.n, corruptions.seed
        npa, mce = (keys[own.key, own.settings] for own in _corrupted_columns(corruptions))
        # Where the title tells which images these are, the note need not.
        images = f"{source_note(corruptions)}, " if npa == "npa" else ""
        cells[npa] = Measure(corruptions.npa, n, f"{images}n {n:,}", seed)
        cells[mce] = Measure(corruptions.mce, n, f"anchor: {corruptions.mce_anchor}", seed)
    for attack in record.attacks:
        own = _attack_column(attack)
        cells[keys[own.key, own.settings]] = _share(attack, attack.seed)
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


def _share(measured: CleanAccuracy | AttackRecord, seed: int | None = None) -> Measure:
    n = measured.n
    return Measure(measured.accuracy, n, f"n {n:,}", seed, interval_95(measured.accuracy, n))


def _corrupted_columns(corruptions: CorruptionsRecord) -> tuple[Column, Column]:
    """NPA and mCE. Another anchor changes mCE only."""
    source, constants, left_out = corruptions.source, corruptions.constants, tuple(corruptions.left_out)
    images = (("source", source), ("constants", constants), ("left_out", left_out))
    anchored = (*images, ("anchor", corruptions.mce_anchor))
    return Column("npa", MEANS["npa"], images), Column("mce", MEANS["mce"], anchored)


def _attack_column(attack: AttackRecord) -> Column:
    """An attack's column. The standard PGDs are known by their settings, whatever the config called them."""
    key, title, losses = attack.name.replace(" ", "_"), attack.label, tuple(attack.losses)
    if key.startswith("pgd"):
        if (attack.steps, attack.restarts or 1, losses) == (20, 1, ("ce",)):
            key = "pgd20"
        elif (attack.steps, attack.restarts, set(losses)) == (100, 5, {"ce", "margin"}):
            key = "pgd100x5"
        elif key in STANDARD_ATTACKS:
            key += "_other"
    settings = {name: getattr(attack, name) for name in _ATTACK_SETTINGS} | {"losses": losses}
    return Column(key, STANDARD_ATTACKS.get(key, title), tuple(settings.items()))


def _told_apart(alike: Sequence[Column]) -> list[Column]:
    """One attack or mean under several settings: what differs goes into the names."""
    names = dict(alike[0].settings)
    differing = [name for name in names if len({repr(dict(column.settings)[name]) for column in alike}) > 1]
    named = []
    for column in alike:
        values = dict(column.settings)
        words = [_described(name, values[name]) or f"no {name}" for name in differing]
        named.append(Column(f"{column.key} {', '.join(words)}", f"{column.title}, {', '.join(words)}", column.settings))
    return named


def _described(name: str, value: Any) -> str:
    if name == "left_out":
        return f"no {', '.join(value)}" if value else f"all {CORRUPTIONS}"
    if value is None or value in ((), ""):
        return ""
    if name == "source":
        *words, last = value.split()
        return " ".join([*words, last[:_DIGITS] if "sha256" in words else last])
    if name == "constants":
        return f"{value} constants"
    if name == "anchor":
        return f"anchor: {value}"
    if name in ("epsilon", "step"):
        return f"{'ε' if name == 'epsilon' else 'step'} {value:g}/255"
    if name in ("steps", "restarts"):
        return f"{value} {name[:-1] if value == 1 else name}"
    if name == "losses":
        return f"loss {' and '.join(value)}" + (", worst case" if len(value) > 1 else "")
    return f"version {value}"
