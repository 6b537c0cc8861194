"""The robustness table: rows from robust records. One row is one checkpoint on one route of its batch norms.

Clean accuracy of one route and accuracy under attack of another never share a row: nothing at test time says which
route an image needs. The papers' reading, which does combine them, is an "oracle" row of its own that takes part in
no mean, no order and no mark of the best value.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from relinearize.records.robustness import RobustRecord
from relinearize.report.tables.measures import Column, Measure, columns_of, measures_of
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import network_name

ORACLE = "oracle (not deployable)"
_ROUTES = (None, "clean", "augmix", "adversarial")


@dataclass(frozen=True)
class Row:
    """One line. `kind`: "checkpoint", "mean" (over seeds) or "oracle"; `cells`: column key -> value."""

    kind: str
    records: tuple[RobustRecord, ...]
    variant: str
    cells: dict[str, Measure]

    @property
    def first(self) -> RobustRecord:
        return self.records[0]

    @property
    def label(self) -> str:
        """The method with its variant."""
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
        """(passed, all) of the gradient-masking checks of its records; an oracle has none of its own."""
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
    runs = {run.key: run for panel in panels for run in panel.runs.itertuples()}
    variants, recipes = {}, {}
    for record in records:
        run = runs.get(record.key) or runs.get(record.run)
        # The route has a column of its own.
        parts = run.variant.split(", ") if run else []
        variants[record.key] = ", ".join(part for part in parts if not part.startswith("route="))
        recipes[record.key] = run.curve if run else record.name.replace(f"-s{record.seed}", "", 1)
    ordered = sorted(records, key=lambda record: _order(record, variants[record.key]))
    tables = []
    for (dataset, title), alike in itertools.groupby(ordered, key=lambda record: (record.dataset, record.title)):
        own = list(alike)
        columns = columns_of(own)
        groups: dict[tuple, list[Row]] = {}
        for record in own:
            network = (record.backbone, record.width, record.convention, record.relus, record.total)
            row = Row("checkpoint", (record,), variants[record.key], measures_of(record, columns))
            groups.setdefault((record.method, record.route, network, recipes[record.key]), []).append(row)
        checkpoints = [row for group in groups.values() for row in group]
        rows = [group[0] if len(group) == 1 else _mean_row(group) for group in groups.values()]
        marked = _marked(rows, columns), _marked(checkpoints, columns)
        tables.append(RobustTable(dataset, title, columns, *marked, _oracle_rows(checkpoints, columns)))
    return tables


def _order(record: RobustRecord, variant: str) -> tuple:
    last = record.method == "random"  # the yardstick comes after the methods
    network = (record.dataset, record.title, record.backbone, record.width or 0, record.convention)
    known = _ROUTES.index(record.route) if record.route in _ROUTES else len(_ROUTES)
    of_method = (record.method, variant, known, record.route or "", record.seed, record.name, record.key)
    return (*network, -record.relus, last, *of_method)


def _mean_row(group: Sequence[Row]) -> Row:
    """Mean and sample standard deviation of each column over the seeds that have it, where it was measured alike."""
    cells = {}
    for key in dict.fromkeys(key for row in group for key in row.cells):
        known = [row.cells[key] for row in group if key in row.cells]
        if len({measure.basis for measure in known}) == 1:
            values = [measure.value for measure in known]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            mean = {"value": statistics.fmean(values), "deviation": deviation, "seeds": len(values), "interval": None}
            cells[key] = replace(known[0], **mean)
    return Row("mean", tuple(row.first for row in group), group[0].variant, cells)


def _oracle_rows(checkpoints: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """The papers' reading: clean images on the clean route, attacked ones on the adversarial route.

    Corrupted images go to the clean route, too, or to that of AugMix where there is one (RLNet's triple batch norm).
    """
    by_checkpoint: dict[tuple, dict[str, Row]] = {}
    for row in checkpoints:
        record = row.first
        if record.route is not None:
            checkpoint = (record.run, record.backbone, record.width, record.relus, record.seed)
            by_checkpoint.setdefault(checkpoint, {})[record.route] = row
    oracles = []
    for routes in by_checkpoint.values():
        if "clean" not in routes or "adversarial" not in routes:
            continue
        corrupted = "augmix" if "augmix" in routes else "clean"
        cells = {}
        for column in columns:
            route = {"ca": "clean", "npa": corrupted, "mce": corrupted}.get(column.name, "adversarial")
            if column.key in routes[route].cells:
                cells[column.key] = routes[route].cells[column.key]
        first = routes.pop("clean")
        oracles.append(Row("oracle", (first.first, *(row.first for row in routes.values())), first.variant, cells))
    return oracles


def _marked(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """The rows with the best value of each column marked, among those of one network with as many ReLUs."""
    marked = []
    for _, group in itertools.groupby(rows, key=lambda row: (row.network, row.first.relus)):
        alike, best = list(group), {}  # best: none where values were not measured alike or do not differ
        for column in columns:
            measures = [row.cells[column.key] for row in alike if column.key in row.cells]
            values = [measure.value for measure in measures]
            if len({measure.basis for measure in measures}) == 1 and not math.isclose(min(values), max(values)):
                best[column.key] = (min if column.name == "mce" else max)(values)
        for row in alike:
            cells = {key: replace(measure, best=measure.value == best.get(key)) for key, measure in row.cells.items()}
            marked.append(replace(row, cells=cells))
    return marked
