"""What the page's robustness section draws from: the same tables, with everything behind a number for its hover."""

from collections.abc import Sequence
from typing import Any

from relinearize.report.tables.measures import interval_95, source_note
from relinearize.report.tables.robustness import RobustTable, Row
from relinearize.report.tables.robustness_text import common_note


def robustness_data(tables: Sequence[RobustTable]) -> list[dict[str, Any]]:
    """One entry per table; rows name their records by position."""
    return [_table(table) for table in tables]


def _table(table: RobustTable) -> dict[str, Any]:
    positions = {row.first.key: position for position, row in enumerate(table.checkpoints)}
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
        **{name: [_row(row, table, positions) for row in rows] for name, rows in views.items()},
        "records": [_record(row) for row in table.checkpoints],
    }


def _row(row: Row, table: RobustTable, positions: dict[str, int]) -> dict[str, Any]:
    keys = {record.key for record in row.records}
    of = [one for one in table.checkpoints if one.first.key in keys]
    passed, checks = row.checks
    cells = {}
    for key, measure in row.cells.items():
        cells[key] = {
            "value": measure.value,
            "deviation": measure.deviation,
            "seeds": measure.seeds,
            "n": measure.n,
            "note": measure.note,
            # A mean's spread is that over seeds; the interval is of one checkpoint.
            "interval": None if row.kind == "mean" else measure.interval,
            "best": key in row.best,
            "route": row.routes.get(key, row.first.route),
        }
        if row.kind == "mean":
            cells[key]["each"] = [[one.first.seed, one.cells[key].value] for one in of if key in one.cells]
    return {
        "kind": row.kind,
        "method": row.first.method,
        "label": row.method,
        "network": row.network,
        "route": row.route,
        "relus": row.first.relus,
        "total": row.first.total,
        "strength": row.strength,
        "seeds": row.seeds,
        "checks": [passed, checks],
        "cells": cells,
        "records": [positions[record.key] for record in row.records],
    }


def _record(row: Row) -> dict[str, Any]:
    record = row.first
    shown = {"key", "name", "method", "route", "relus", "seed", "clean", "checks", "created", "seconds", "hardware"}
    values = record.model_dump(mode="json", include=shown)
    route = "" if record.route is None else f", route {record.route}"
    values["label"] = f"{row.method}, {record.relus:,} ReLUs{route}, seed {record.seed}"
    values["attacks"] = [
        {**attack.model_dump(mode="json"), "interval": interval_95(attack.accuracy, attack.n)}
        for attack in record.attacks
    ]
    values["corruptions"] = None
    if record.corruptions is not None:
        values["corruptions"] = record.corruptions.model_dump(mode="json")
        values["corruptions"]["note"] = source_note(record.corruptions)
    return values
