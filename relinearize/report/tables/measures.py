"""What a robust evaluation measured, and the columns of the robustness table.

A column holds values that may be compared: an attack with another radius or number of steps is another column, and so
is the mean over other corrupted images, or over fewer corruptions.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from relinearize.records.robustness import AttackRecord, CleanAccuracy, CorruptionsRecord, RobustRecord
from relinearize.report.tables.text import spread_text

# Shown in every table, a dash where they were not run: column -> its title.
STANDARD_ATTACKS = {"fgsm": "FGSM", "pgd20": "PGD-20", "pgd100x5": "PGD-100 x 5", "autoattack": "AutoAttack"}
MEANS = {"ca": "CA", "npa": "NPA", "mce": "mCE"}
CORRUPTIONS = 15  # NPA and mCE are means over these, times five severities
_ATTACK_SETTINGS = ("epsilon", "step", "steps", "restarts", "losses", "version")
_NORMAL_95 = 1.959964
# Setting of an attack or of corrupted images -> its value in words.
_WORDS: dict[str, Callable[[Any], str]] = {
    "source": lambda text: re.sub(r"(sha256.* \S{8})\S*$", r"\1", text),  # enough to tell two files apart
    "constants": "{} constants".format,
    "left_out": lambda names: f"no {', '.join(names)}" if names else f"all {CORRUPTIONS}",
    "anchor": "anchor: {}".format,
    "epsilon": "ε {:g}/255".format,
    "step": "step {:g}/255".format,
    "steps": lambda count: f"{count} step{'s' * (count != 1)}",
    "restarts": lambda count: f"{count} restart{'s' * (count != 1)}",
    "losses": lambda names: f"loss {' and '.join(names)}{', worst case' * (len(names) > 1)}",
    "version": "version {}".format,
}


@dataclass(frozen=True)
class Measure:
    """One value in percent, of `n` images, on one batch-norm route.

    `note`: for people, short. `seed`: of the attack's or the corruptions' random numbers. `interval`: points to the
    farther end of the 95 % interval; None where the value is no share of n images. `deviation`: sample standard
    deviation over `seeds` checkpoints. `best`: of the rows shown with it at the same number of ReLUs.
    """

    value: float
    n: int
    note: str
    route: str | None
    seed: int | None = None
    interval: float | None = None
    deviation: float | None = None
    seeds: int = 1
    best: bool = False

    @property
    def basis(self) -> tuple[int, int | None]:
        """What must be equal in two of one column for a comparison or a mean."""
        return self.n, self.seed

    def __str__(self) -> str:
        return spread_text(self.value, self.deviation, digits=1)


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
    def is_attack(self) -> bool:
        return self.name not in MEANS

    @property
    def described(self) -> str:
        """The settings in words: "ε 8/255, step 2/255, 20 steps, 1 restart, loss ce"."""
        return ", ".join(filter(None, (_described(name, value) for name, value in self.settings)))

    @property
    def untold(self) -> list[str]:
        """Of the settings in words what every heading names, as far as the title does not: radius, corruptions."""
        settings = dict(self.settings)
        words = [_described("epsilon", settings.get("epsilon"))]
        if "left_out" in settings:
            words += coverage(settings["left_out"])
        return [word for word in words if word and word not in self.title]

    def told_by(self, names: Sequence[str]) -> "Column":
        """The same with the settings `names` in key and title."""
        values = dict(self.settings)
        words = ", ".join(_described(name, values[name]) or f"no {name}" for name in names)
        return Column(f"{self.key} {words}", f"{self.title}, {words}", self.settings)


def columns_of(records: Sequence[RobustRecord]) -> list[Column]:
    """CA, NPA, mCE, the standard attacks (whether run or not), then all others by name.

    Where one attack or mean has several settings, those that differ go into the names.
    """
    titles = MEANS | STANDARD_ATTACKS
    found: dict[str, set[Column]] = {}
    for column in (column for record in records for column, _ in _measured(record)):
        found.setdefault(column.key, set()).add(column)
    columns = []
    for key in (*titles, *sorted(set(found) - set(titles))):
        alike = sorted(found.get(key, {Column(key, titles.get(key, key))}), key=_place)
        values = {name: {repr(dict(column.settings)[name]) for column in alike} for name, _ in alike[0].settings}
        differing = [name for name, different in values.items() if len(different) > 1]
        columns += alike if len(alike) == 1 else [column.told_by(differing) for column in alike]
    return columns


def _place(column: Column) -> list[tuple[bool, float, str]]:
    """Where a column stands among others of its key: numbers in their order, not in that of their digits."""
    values = [value for _, value in column.settings]
    return [(value is not None, value if isinstance(value, int | float) else 0.0, repr(value)) for value in values]


def measures_of(record: RobustRecord, columns: Sequence[Column]) -> dict[str, Measure]:
    """Column key -> value; what was not measured is missing."""
    keys = {(column.name, column.settings): column.key for column in columns}
    cells = {keys[column.key, column.settings]: measure for column, measure in _measured(record)}
    for key, measure in cells.items():
        if key.startswith("npa "):  # the title tells which images these are
            cells[key] = replace(measure, note=f"n {measure.n:,}")
    return cells


def _measured(record: RobustRecord) -> Iterator[tuple[Column, Measure]]:
    yield Column("ca", MEANS["ca"]), _share(record, record.clean)
    if (corrupted := record.corruptions) is not None:
        images = {"source": corrupted.source, "constants": corrupted.constants, "left_out": tuple(corrupted.left_out)}
        anchored = images | {"anchor": corrupted.mce_anchor}  # another anchor changes mCE only
        n, same = corrupted.n, (record.route, corrupted.seed)
        note = f"{source_note(corrupted)}, n {n:,}"
        # As wide as if all corruptions of an image were right or wrong together: no mean over them can vary more.
        npa = Measure(corrupted.npa, n, note, *same, interval_95(corrupted.npa, n))
        yield Column("npa", MEANS["npa"], tuple(images.items())), npa
        note = f"anchor: {corrupted.mce_anchor}"
        yield Column("mce", MEANS["mce"], tuple(anchored.items())), Measure(corrupted.mce, n, note, *same)
    for attack in record.attacks:
        yield _attack_column(attack), _share(record, attack, attack.seed)


def _share(record: RobustRecord, measured: CleanAccuracy | AttackRecord, seed: int | None = None) -> Measure:
    accuracy, n = measured.accuracy, measured.n
    return Measure(accuracy, n, f"n {n:,}", record.route, seed, interval_95(accuracy, n))


def _attack_column(attack: AttackRecord) -> Column:
    """An attack's column. The standard PGDs are known by their settings, whatever the config called them."""
    key, losses = attack.name.replace(" ", "_"), tuple(attack.losses)
    if key.startswith("pgd"):
        if (attack.steps, attack.restarts or 1, losses) == (20, 1, ("ce",)):
            key = "pgd20"
        elif (attack.steps, attack.restarts, set(losses)) == (100, 5, {"ce", "margin"}):
            key = "pgd100x5"
        elif key in STANDARD_ATTACKS:
            key += "_other"
    settings = {name: getattr(attack, name) for name in _ATTACK_SETTINGS} | {"losses": losses}
    return Column(key, STANDARD_ATTACKS.get(key, attack.label), tuple(settings.items()))


def source_note(corruptions: CorruptionsRecord) -> str:
    """Where corrupted images are from and which are missing: "generated with cifar constants, 14 of 15, no frost"."""
    source = corruptions.source.split()[0]
    if corruptions.constants and source == "generated":
        source += f" with {corruptions.constants} constants"
    return ", ".join([source, *coverage(corruptions.left_out)])


def coverage(left_out: Sequence[str]) -> list[str]:
    """Which of the corruptions a mean is over: "14 of 15", "no frost"."""
    count = [f"{CORRUPTIONS - len(left_out)} of {CORRUPTIONS}"] if left_out else []
    return [*count, _described("left_out", left_out)]


def interval_95(accuracy: float, n: int) -> float:
    """Points from `accuracy` (percent of n images) to the farther end of Wilson's 95 % interval."""
    share, z = accuracy / 100, _NORMAL_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return 100 * (half + abs(centre - share))


def _described(name: str, value: Any) -> str:
    """One setting in words, "" where the attack has no such setting."""
    return "" if value in (None, (), "") and name != "left_out" else _WORDS[name](value)
