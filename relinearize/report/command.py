"""`relinearize report FOLDER ...`: the files written, and the table on the terminal."""

from pathlib import Path

from relinearize.experiment.records import find_records
from relinearize.report import print_runs, robust_tables, write_report
from relinearize.report.pareto import build_panels
from relinearize.report.table import print_robustness


def report_folders(folders: list[Path], published: bool = True) -> None:
    """Write pareto.csv, pareto.png and report.html into the first folder; print the runs and the paths.

    With robust records among them, robustness.md and what goes with it, too.
    """
    paths = write_report(folders, published=published)
    records = [record for _, record in find_records(folders)]
    print_runs(records)
    print_robustness(robust_tables(folders, build_panels(records, published)))
    for path in (paths.csv, paths.png, paths.html, *paths.robustness):
        print(path)
