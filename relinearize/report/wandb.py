"""A report in Weights & Biases: its tables, pictures and page, as the files that it wrote. The run is the caller's."""

import csv
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from relinearize.records.run import Record
from relinearize.report import ReportPaths

Cell = str | float | None


def report_run(records: Iterable[Record], paths: ReportPaths, settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of wandb.init for the report on `records`: each report is a W&B run of its own."""
    records = list(records)
    tags = sorted({name for record in records for name in (record.dataset.name, record.backbone.name)})
    return {
        "name": f"report-{paths.html.resolve().parent.name}",
        "job_type": "report",
        "group": settings["group"],
        "tags": [*tags, *settings["tags"]],
        "config": {"runs": {record.name: record.key for record in records}},
    }


def log_report(run: Any, paths: ReportPaths) -> None:
    """Every file of the report: CSV as a table, PNG as an image, the page to look at; all together as an artifact."""
    import wandb

    files = list(flattened(astuple(paths)))
    shown: dict[str, Any] = {}
    for path in files:
        if path.suffix == ".csv":
            names, rows = read_table(path)
            shown[f"report/{path.stem}"] = wandb.Table(columns=names, data=rows)
        elif path.suffix == ".png":
            shown[f"report/{path.stem}_picture"] = wandb.Image(str(path))
        elif path.suffix == ".html":
            shown["report/page"] = wandb.Html(str(path), inject=False)
    run.log(shown)
    artifact = wandb.Artifact(f"report-{run.id}", type="report")
    for path in files:
        artifact.add_file(str(path), skip_cache=True)
    run.log_artifact(artifact)


def read_table(path: Path) -> tuple[list[str], list[list[Cell]]]:
    """Columns and rows of a CSV file: numbers where a whole column has nothing else, None where a cell is empty."""
    with open(path, encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    columns = [typed([row[place] for row in rows]) for place in range(len(names))]
    return names, [list(row) for row in zip(*columns, strict=True)]


def typed(cells: list[str]) -> list[Cell]:
    try:
        return [float(cell) if cell else None for cell in cells]
    except ValueError:
        return [cell or None for cell in cells]


def flattened(parts: Iterable[Any]) -> Iterable[Path]:
    for part in parts:
        if isinstance(part, Path):
            yield part
        else:
            yield from part
