"""`relinearize report FOLDER ...`: the files written, and the table on the terminal."""

from pathlib import Path

from relinearize.experiment.records import find_records
from relinearize.report import print_runs, write_report


def report_folders(folders: list[Path], published: bool = True) -> None:
    """Write pareto.csv, pareto.png and report.html into the first folder; print the runs and the three paths."""
    paths = write_report(folders, published=published)
    print_runs([record for _, record in find_records(folders)])
    for path in (paths.csv, paths.png, paths.html):
        print(path)
