"""The robustness table: rows from robust records. One row is one checkpoint on one route of its batch norms.

Clean accuracy of one route and accuracy under attack of another never share a row: nothing at test time says which
route an image needs. The papers' reading, which does combine them, is an "oracle" row of its own that takes part in
no mean, no order and no mark of the best value.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from relinearize.records.robustness import RobustRecord
from relinearize.report.tables.measures import Column, Measure, columns_of, measures_of
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import network_name

ORACLE = "oracle (not deployable)"
_ROUTES = (None, "clean", "augmix", "adversarial")


@dataclass(frozen=True)
class Row:
    """One line. `kind`: "checkpoint", "mean" (over the seeds of `records`) or "oracle".

    `routes`: column -> the route its value was measured on, for an oracle row; empty otherwise.
    `best`: columns in which this row is the best of those shown with it at the same number of ReLUs.
    """

    kind: str
    records: tuple[RobustRecord, ...]
    variant: str
    cells: dict[str, Measure]
    routes: dict[str, str] = field(default_factory=dict)
    best: frozenset[str] = frozenset()

    @property
    def first(self) -> RobustRecord:
        return self.records[0]

    @property
    def method(self) -> str:
        return self.first.method + (f" [{self.variant}]" if self.variant else "")

    @property
    def route(self) -> str:
        """The route, "-" for a network that has but one."""
        return ORACLE if self.kind == "oracle" else self.first.route or "-"

    @property
    def network(self) -> str:
        return network_name(self.first.backbone, self.first.width, self.first.convention)

    @property
    def seeds(self) -> list[int]:
        return sorted({record.seed for record in self.records})

    @property
    def checks(self) -> tuple[int, int]:
        """(passed, all) of the sanity checks of its records; an oracle has none of its own."""
        checks = [] if self.kind == "oracle" else [check for record in self.records for check in record.checks]
        return sum(check.passed for check in checks), len(checks)

    @property
    def strength(self) -> str:
        """epsilon and step size of the iterated attacks, in 255ths: "8 / 2"; "-" without attacks."""
        attacks = [attack for record in self.records for attack in record.attacks]
        radii = sorted({attack.epsilon for attack in attacks if attack.epsilon is not None})
        steps = sorted({attack.step for attack in attacks if attack.step is not None and (attack.steps or 0) > 1})
        shown = [", ".join(f"{value:g}" for value in values) for values in (radii, steps)]
        return " / ".join(text for text in shown if text) or "-"


@dataclass(frozen=True)
class RobustTable:
    """All rows on one dataset.

    `checkpoints`: one per record. `rows`: what is shown at first, checkpoints that differ by nothing but the seed
    having become one row. `oracles`: one per checkpoint with several routes, never among the others.
    """

    dataset: str
    title: str
    columns: list[Column]
    rows: list[Row]
    checkpoints: list[Row]
    oracles: list[Row]

    @property
    def networks(self) -> list[str]:
        return sorted({row.network for row in self.checkpoints})


def build_tables(records: Sequence[RobustRecord], panels: Sequence[Panel] = ()) -> list[RobustTable]:
    """Sort robust records into one table per dataset, deterministically and whatever their order.

    `panels`: of the runs, whose curves say which checkpoints are seeds of each other. Without them two are only where
    their names differ by nothing but the seed.
    """
    by_key = {run.key: run for panel in panels for run in panel.runs.itertuples()}
    runs = {record.key: by_key.get(record.key) or by_key.get(record.run) for record in records}
    variants = {key: "" if run is None else _variant(run.variant) for key, run in runs.items()}
    by_dataset: dict[tuple[str, str], list[RobustRecord]] = {}
    for record in sorted(records, key=lambda record: _order(record, variants[record.key])):
        by_dataset.setdefault((record.dataset, record.title), []).append(record)
    tables = []
    for (dataset, title), own in by_dataset.items():
        columns = columns_of(own)
        groups: dict[tuple, list[Row]] = {}
        for record in own:
            run = runs[record.key]
            recipe = _name_without_seed(record) if run is None else run.curve
            row = Row("checkpoint", (record,), variants[record.key], measures_of(record, columns))
            groups.setdefault((*_identity(record), recipe), []).append(row)
        checkpoints = [row for group in groups.values() for row in group]
        rows = [group[0] if len(group) == 1 else _mean_row(group) for group in groups.values()]
        marked = _marked(rows, columns), _marked(checkpoints, columns)
        tables.append(RobustTable(dataset, title, columns, *marked, _oracle_rows(checkpoints, columns)))
    return tables


def _order(record: RobustRecord, variant: str) -> tuple:
    last = record.method == "random"  # the yardstick comes after the methods
    network = (record.dataset, record.title, record.backbone, record.width or 0, record.convention)
    of_method = (record.method, variant, _route_place(record), record.seed, record.name, record.key)
    return (*network, -record.relus, last, *of_method)


def _route_place(record: RobustRecord) -> tuple[int, str]:
    known = record.route in _ROUTES
    return (_ROUTES.index(record.route) if known else len(_ROUTES), record.route or "")


def _identity(record: RobustRecord) -> tuple:
    return (record.method, record.route, record.backbone, record.width, record.convention, record.relus, record.total)


def _variant(variant: str) -> str:
    """What tells the run from others of its method; the route has a column of its own."""
    return ", ".join(part for part in variant.split(", ") if not part.startswith("route="))


def _name_without_seed(record: RobustRecord) -> str:
    return record.name.replace(f"-s{record.seed}", "", 1)


def _mean_row(group: Sequence[Row]) -> Row:
    """Mean and sample standard deviation of each column over the seeds that have it, where it was measured alike."""
    cells = {}
    for key in dict.fromkeys(key for row in group for key in row.cells):
        known = [row.cells[key] for row in group if key in row.cells]
        if len({measure.basis for measure in known}) > 1:
            continue
        values = [measure.value for measure in known]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        cells[key] = replace(known[0], value=statistics.fmean(values), deviation=deviation, seeds=len(values))
    return Row("mean", tuple(row.first for row in group), group[0].variant, cells)


def _oracle_rows(checkpoints: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """The papers' reading: clean images on the clean route, attacked ones on the adversarial route.

    Corrupted images go to the clean route, too, or to that of AugMix where there is one (RLNet's triple batch norm).
    """
    routes: dict[tuple, dict[str, Row]] = {}
    for row in checkpoints:
        if row.first.route is not None:
            record = row.first
            checkpoint = (record.run, record.backbone, record.width, record.relus, record.seed)
            routes.setdefault(checkpoint, {})[record.route] = row
    oracles = []
    for of in routes.values():
        if "clean" not in of or "adversarial" not in of:
            continue
        cells, source = {}, {}
        corrupted = "augmix" if "augmix" in of else "clean"
        for column in columns:
            route = {"ca": "clean", "npa": corrupted, "mce": corrupted}.get(column.name, "adversarial")
            if column.key in of[route].cells:
                cells[column.key], source[column.key] = of[route].cells[column.key], route
        shown = (of["clean"].first, *(row.first for name, row in of.items() if name != "clean"))
        oracles.append(Row("oracle", shown, of["clean"].variant, cells, source))
    return oracles


def _marked(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """The rows with the best value of each column marked, among those of one network with as many ReLUs.

    Only values measured alike are compared: where they are not, none is marked.
    """
    best: dict[int, set[str]] = {index: set() for index in range(len(rows))}
    alike: dict[tuple, list[int]] = {}
    for index, row in enumerate(rows):
        alike.setdefault((row.network, row.first.relus), []).append(index)
    for indices in alike.values():
        for column in columns:
            known = {index: rows[index].cells[column.key] for index in indices if column.key in rows[index].cells}
            if len(known) < 2 or len({measure.basis for measure in known.values()}) > 1:
                continue
            values = [measure.value for measure in known.values()]
            top = min(values) if column.lower_is_better else max(values)
            for index, measure in known.items():
                if measure.value == top and not math.isclose(min(values), max(values)):
                    best[index].add(column.key)
    return [replace(row, best=frozenset(best[index])) for index, row in enumerate(rows)]
