"""The robustness table: rows from robust records. One row is one checkpoint on one route of its batch norms.

Clean accuracy of one route and accuracy under attack of another never share a row: nothing at test time says which
route an image needs. The papers' reading, which does combine them, is an "oracle" row of its own that takes part in
no mean, no order and no mark of the best value.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from relinearize.records.robustness import RobustRecord
from relinearize.report.tables.measures import Column, Measure, columns_of, measures_of
from relinearize.report.tables.text import method_order, network_name

if TYPE_CHECKING:  # an evaluation prints its table without pandas
    from relinearize.report.tables.pareto import Panel

ORACLE = "oracle (not deployable)"
_ROUTES = (None, "clean", "augmix", "adversarial")


@dataclass(frozen=True)
class Row:
    """One line. `kind`: "checkpoint", "mean" (over seeds) or "oracle"; `cells`: column key -> value.

    `notes`: of a mean, column key -> what is not as in the other columns: "2 of 3 seeds"; "n differs" where there is no
    mean at all.
    """

    kind: str
    records: tuple[RobustRecord, ...]
    variant: str
    cells: dict[str, Measure]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> RobustRecord:
        return self.records[0]

    @property
    def relus(self) -> int:
        """ReLUs kept, of several seeds their mean: a search may meet its budget a little differently with each."""
        return mean_relus(self.records)

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

    def basis(self, column: Column) -> str:
        """What its values stand on and the title does not say: "ε 8/255, n 1,000"; "" where it was not measured."""
        counts = sorted({row.cells[column.key].n for row in self.checkpoints if column.key in row.cells})
        numbers = [f"n {' or '.join(f'{count:,}' for count in counts)}"] if counts else []
        return ", ".join([*column.untold, *numbers])


def mean_relus(records: Sequence[RobustRecord]) -> int:
    return round(statistics.fmean(record.relus for record in records))


def build_tables(records: Sequence[RobustRecord], panels: "Sequence[Panel]" = ()) -> list[RobustTable]:
    """Sort robust records into one table per dataset, deterministically and whatever their order.

    `panels`: of the runs, whose curves and asked budgets say which checkpoints are seeds of each other. Without them
    two are only where their numbers of ReLUs are equal and their names differ by nothing but the seed.
    """
    runs = {run.key: run for panel in panels for run in panel.runs.itertuples()}
    variants: dict[str, str] = {}
    points: dict[tuple, list[RobustRecord]] = {}
    for record in sorted(records, key=lambda record: (record.seed, record.name, record.key)):
        run = runs.get(record.key) or runs.get(record.run)
        # The page shows a table beside the panel of its dataset and title.
        record = record.model_copy(update={"title": run.title}) if run else record
        # The route has a column of its own.
        parts = run.variant.split(", ") if run else []
        variants[record.key] = ", ".join(part for part in parts if not part.startswith("route="))
        point = (run.curve, run.asked) if run else (record.name.replace(f"-s{record.seed}", "", 1), record.relus)
        network = (record.dataset, record.title, record.backbone, record.width, record.convention, record.total)
        points.setdefault((network, record.method, record.route, point), []).append(record)
    ordered = sorted(points.values(), key=lambda seeds: _order(seeds, variants[seeds[0].key]))
    tables = []
    for (dataset, title), alike in itertools.groupby(ordered, key=lambda seeds: (seeds[0].dataset, seeds[0].title)):
        own = list(alike)
        columns = columns_of([record for seeds in own for record in seeds])
        rows, checkpoints = [], []
        for seeds in own:
            each = [Row("checkpoint", (one,), variants[one.key], measures_of(one, columns)) for one in seeds]
            rows.append(each[0] if len(each) == 1 else _mean_row(each))
            checkpoints += each
        marked = _marked(rows, columns), _marked(checkpoints, columns)
        tables.append(RobustTable(dataset, title, columns, *marked, _oracle_rows(checkpoints, columns)))
    return tables


def _order(seeds: Sequence[RobustRecord], variant: str) -> tuple:
    first = seeds[0]
    network = (first.dataset, first.title, first.backbone, first.width or 0, first.convention)
    known = _ROUTES.index(first.route) if first.route in _ROUTES else len(_ROUTES)
    of_method = (variant, known, first.route or "", first.seed, first.name, first.key)
    return (*network, -mean_relus(seeds), *method_order(first.method), *of_method)


def _mean_row(group: Sequence[Row]) -> Row:
    """Mean and sample standard deviation of each column over the seeds that have it, where it was measured alike."""
    cells, notes = {}, {}
    for key in dict.fromkeys(key for row in group for key in row.cells):
        known = [row.cells[key] for row in group if key in row.cells]
        if len(known) < len(group):
            notes[key] = f"{len(known)} of {len(group)} seeds"
        if len({measure.n for measure in known}) > 1:
            notes[key] = "n differs"
        elif len({measure.seed for measure in known}) > 1:
            notes[key] = "random numbers differ"
        else:
            values = [measure.value for measure in known]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            mean = {"value": statistics.fmean(values), "deviation": deviation, "seeds": len(values), "interval": None}
            cells[key] = replace(known[0], **mean)
    return Row("mean", tuple(row.first for row in group), group[0].variant, cells, notes)


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
    alike: dict[tuple, list[Measure]] = {}
    for row in rows:
        for key, measure in row.cells.items():
            alike.setdefault((row.network, row.relus, key), []).append(measure)
    falling = {column.key for column in columns if column.name == "mce"}
    best = {}  # none where values were not measured alike or do not differ
    for place, measures in alike.items():
        values = [measure.value for measure in measures]
        if len({measure.basis for measure in measures}) == 1 and not math.isclose(min(values), max(values)):
            best[place] = (min if place[-1] in falling else max)(values)
    marked = []
    for row in rows:
        cells = {}
        for key, measure in row.cells.items():
            cells[key] = replace(measure, best=measure.value == best.get((row.network, row.relus, key)))
        marked.append(replace(row, cells=cells))
    return marked
