"""What the page's robustness section draws from: the same tables, with everything behind a number for its hover."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from relinearize.report.tables.measures import interval_95, source_note
from relinearize.report.tables.robustness import RobustTable, Row
from relinearize.report.tables.robustness_text import common_note


def robustness_data(tables: Sequence[RobustTable]) -> list[dict[str, Any]]:
    """One entry per table; rows name their records by position."""
    return [_table(table) for table in tables]


def _table(table: RobustTable) -> dict[str, Any]:
    views = {"rows": table.rows, "checkpoints": table.checkpoints, "oracles": table.oracles}
    return {
        "dataset": table.dataset,
        "title": table.title,
        "networks": table.networks,
        "columns": [
            {
                "key": column.key,
                "title": column.title,
                "note": common_note(column, table.checkpoints),
                "settings": column.described,
                "attack": column.is_attack,
            }
            for column in table.columns
        ],
        **{name: [_row(row, table) for row in rows] for name, rows in views.items()},
        "records": [_record(row) for row in table.checkpoints],
    }


def _row(row: Row, table: RobustTable) -> dict[str, Any]:
    places = {one.first.key: place for place, one in enumerate(table.checkpoints)}
    of = [table.checkpoints[places[record.key]] for record in row.records]
    cells = {key: asdict(measure) for key, measure in row.cells.items()}
    if row.kind == "mean":
        for key, cell in cells.items():
            cell["each"] = [[one.first.seed, one.cells[key].value] for one in of if key in one.cells]
    return {
        **{name: getattr(row, name) for name in ("kind", "label", "network", "route", "strength", "seeds", "checks")},
        **{name: getattr(row.first, name) for name in ("method", "relus", "total")},
        "cells": cells,
        "records": [places[record.key] for record in row.records],
    }


def _record(row: Row) -> dict[str, Any]:
    record = row.first
    shown = {"key", "name", "method", "route", "relus", "seed", "clean", "checks", "created", "seconds", "hardware"}
    values = record.model_dump(mode="json", include={*shown, "attacks", "corruptions"})
    route = "" if record.route is None else f", route {record.route}"
    values["label"] = f"{row.label}, {record.relus:,} ReLUs{route}, seed {record.seed}"
    for attack in values["attacks"]:
        attack["interval"] = interval_95(attack["accuracy"], attack["n"])
    if record.corruptions is not None:
        values["corruptions"]["note"] = source_note(record.corruptions)
    return values
