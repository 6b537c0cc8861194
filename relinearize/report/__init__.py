"""Tables, picture and page, made from records alone. Imports no torch, and matplotlib only when it draws."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from relinearize.experiment.records import Record


@dataclass(frozen=True)
class ReportPaths:
    """The files that a report wrote."""

    csv: Path
    png: Path
    html: Path


def write_report(folders: Sequence[Path | str], out: Path | str | None = None, published: bool = True) -> ReportPaths:
    """Write pareto.csv, pareto.png and report.html from every record below `folders`.

    `out`: the folder they go to, the first of `folders` if None. Each file is written atomically. `published`: with the
    papers' points on the same images, which runs at reduced scale cannot be compared with.
    Raises UserError where there is nothing to report or `out` cannot be written.
    """
    from relinearize.errors import UserError
    from relinearize.experiment.records import find_records, write_atomically
    from relinearize.report.figure import draw_pareto
    from relinearize.report.page import render_page
    from relinearize.report.pareto import build_panels, pareto_csv

    folders = [Path(folder) for folder in folders]
    if not folders:
        raise UserError("report: name at least one folder that holds record.json files")
    found = find_records(folders)
    first = folders[0].parent if folders[0].is_file() else folders[0]
    place = first if out is None else Path(out)
    panels = build_panels([record for _, record in found], published)
    paths = ReportPaths(place / "pareto.csv", place / "pareto.png", place / "report.html")
    try:
        write_atomically(paths.csv, pareto_csv(panels).encode())
        write_atomically(paths.png, draw_pareto(panels))
        # Seen from the page: a folder that is moved or shared keeps true paths, and names no machine.
        lying = {record.key: Path(os.path.relpath(path, place)) for path, record in found}
        write_atomically(paths.html, render_page(panels, lying).encode())
    except OSError as error:
        raise UserError(f"{place}: the report cannot be written here ({error.strerror})") from error
    return paths


def print_runs(records: "Iterable[Record]", console: "Console | None" = None) -> None:
    """Print the runs as a table on `console` (standard output if None)."""
    from relinearize.report.table import print_table

    print_table(records, console)
