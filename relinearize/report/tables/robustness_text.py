"""The robustness table as text: Markdown for people, CSV (rows; corruptions and severities) for programs."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pandas import DataFrame

from relinearize.report.tables.measures import Column
from relinearize.report.tables.robustness import RobustTable, Row
from relinearize.report.tables.text import csv_text, markdown, markdown_table, plain

_OF_NETWORK = ("backbone", "width", "convention", "method")
CORRUPTION_COLUMNS = (
    *("dataset", "title", "backbone", "width", "convention", "method", "variant", "route", "relus", "seed", "key"),
    *("source", "constants", "corruption_seed", "corruption", "standard", "severity", "accuracy", "n"),
)


def common_note(column: Column, rows: Sequence[Row]) -> str | None:
    """What all values of a column stand on, "" if there is none; None if it differs and each cell must say it."""
    notes = {row.cells[column.key].note for row in rows if column.key in row.cells}
    return None if len(notes) > 1 else next(iter(notes), "not run" if column.is_attack else "")


def robustness_markdown(tables: Sequence[RobustTable]) -> str:
    """Everything for people: per dataset the table, the oracle's reading apart from it, settings and checks."""
    filters = {"rows": _rows, "with_seeds": _with_seeds, "numbers": _numbers}
    return markdown("robustness.md", filters, tables=tables)


def _with_seeds(table: RobustTable) -> list[Row]:
    """The mean rows, each followed by the checkpoints it is the mean of."""
    single = {row.first.key: row for row in table.checkpoints}
    shown = []
    for row in table.rows:
        shown.append(row)
        if row.kind == "mean":
            shown += [single[record.key] for record in row.records]
    return shown


def _rows(table: RobustTable, rows: Sequence[Row]) -> str:
    several = len(table.networks) > 1
    notes = {column.key: common_note(column, rows) for column in table.columns}
    titles = ["method", *(["network"] if several else []), "ReLUs", "route"]
    left = len(titles)
    titles += [column.title + (f" ({notes[column.key]})" if notes[column.key] else "") for column in table.columns]
    titles += ["ε / step, in 255ths", "seeds", "checks"]
    # A checkpoint whose mean stands above it is part of that row: the mark belongs to the mean.
    averaged = {record.key for row in rows if row.kind == "mean" for record in row.records}
    lines = []
    for row in rows:
        part = row.kind == "checkpoint" and row.first.key in averaged
        cells = [("&nbsp;&nbsp;" if part else "") + plain(row.label)]
        cells += [plain(row.network)] if several else []
        cells += [f"{row.relus:,}", plain(row.route)]
        for column in table.columns:
            text = _cell(row, column, notes[column.key] is None)
            cells.append(f"**{text}**" if column.key in row.cells and row.cells[column.key].best and not part else text)
        passed, checks = row.checks
        cells += [row.strength, ", ".join(map(str, row.seeds)), f"{passed} of {checks}" if checks else "-"]
        lines.append([f"*{cell}*" for cell in cells] if row.kind == "oracle" else cells)
    titles = [plain(title) for title in titles]
    return markdown_table(DataFrame(lines, columns=titles), titles[:left])


def _cell(row: Row, column: Column, with_note: bool) -> str:
    measure = row.cells.get(column.key)
    notes = [plain(measure.note)] if measure and with_note else []
    if column.key in row.notes:
        notes.append(row.notes[column.key])
    if measure and row.kind == "oracle":
        notes.append(f"route {plain(measure.route)}")
    return str(measure or "-") + (f" ({'; '.join(notes)})" if notes else "")


def _numbers(table: RobustTable, column: Column) -> str:
    """How many images and which random numbers a column stands on, and how sure few images are."""
    known = [row.cells[column.key] for row in table.checkpoints if column.key in row.cells]
    counts, seeds = sorted({measure.n for measure in known}), sorted({measure.seed for measure in known})
    text = f"n {' or '.join(f'{count:,}' for count in counts)}; seed {' or '.join(map(str, seeds))}"
    few = column.name == "autoattack" or counts[0] < 10_000
    if few and (column.is_attack or column.name == "npa"):
        text += f"; 95 % interval at most ± {max(measure.interval for measure in known):.1f} points"
    return text


def robustness_csv(tables: Iterable[RobustTable]) -> str:
    """One line per row of each table: checkpoints, means over seeds and oracle readings, told apart by `row`."""
    return csv_text([_values(table, row) for table in tables for row in (*_with_seeds(table), *table.oracles)])


def _values(table: RobustTable, row: Row) -> dict[str, Any]:
    record, (passed, checks) = row.first, row.checks
    values: dict[str, Any] = {"row": row.kind, "dataset": table.dataset, "title": table.title}
    values |= {name: getattr(record, name) for name in _OF_NETWORK}
    values |= {"variant": row.variant, "route": row.route, "relus": row.relus, "relus_total": record.total}
    values["seeds"] = " ".join(map(str, row.seeds))
    for column in table.columns:
        name = re.sub(r"[\W_]+", "_", column.key).strip("_")
        with_seeds = any(column.key in other.cells and column.key in other.notes for other in table.rows)
        values |= {name + part: value for part, value in _measured(row, column, with_seeds).items()}
    values |= {"checks_passed": passed, "checks": checks}
    return values | {f"{name}s": " ".join(getattr(each, name) for each in row.records) for name in ("name", "key")}


def _measured(row: Row, column: Column, with_seeds: bool) -> dict[str, Any]:
    """The CSV columns of one value, as endings of its column's name; all None where it is missing.

    The route is named with each, as an oracle's values are of several; `with_seeds`: of how many seeds it is, too.
    """
    measure, settings = row.cells.get(column.key), dict(column.settings)
    names = {"": "value", "_sd": "deviation", "_n": "n", "_route": "route"}
    names |= {"_seeds": "seeds"} if with_seeds else {}
    names |= {} if column.name == "ca" else {"_seed": "seed"}
    names |= {} if column.name == "mce" else {"_interval95": "interval"}
    values = {end: getattr(measure, name, None) for end, name in names.items()}
    if column.is_attack:
        values["_settings"] = column.described
    elif column.name != "ca":
        values |= {"_source": settings.get("source"), "_constants": settings.get("constants")}
        values["_left_out"] = " ".join(settings.get("left_out", ()))
        if column.name == "mce":
            values["_anchor"] = settings.get("anchor")
    if measure is None:
        return dict.fromkeys(values)
    return {end: round(value, 4) if isinstance(value, float) else value for end, value in values.items()}


def corruptions_csv(tables: Iterable[RobustTable]) -> str:
    """One line per checkpoint and route, corruption and severity; `standard`: one of the 15 that NPA is the mean of."""
    measured = [row for table in tables for row in table.checkpoints if row.first.corruptions is not None]
    return csv_text([line for row in measured for line in _severities(row)], columns=CORRUPTION_COLUMNS)


def _severities(row: Row) -> Iterable[dict[str, Any]]:
    record, corruptions = row.first, row.first.corruptions
    same = {name: getattr(record, name) for name in ("dataset", "title", *_OF_NETWORK, "relus", "seed", "key")}
    same |= {name: getattr(corruptions, name) for name in ("source", "constants", "n")}
    same |= {"variant": row.variant, "route": row.route, "corruption_seed": corruptions.seed}
    for standard, accuracies in ((True, corruptions.accuracy), (False, corruptions.extra)):
        for corruption, by_severity in accuracies.items():
            for severity, accuracy in enumerate(by_severity, start=1):
                measured = {"severity": severity, "accuracy": round(accuracy, 4)}
                yield {**same, "corruption": corruption, "standard": standard, **measured}
