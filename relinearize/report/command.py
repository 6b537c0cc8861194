"""`relinearize report FOLDER ...`: the files written, and the table on the terminal."""

from pathlib import Path

from relinearize.experiment.records import find_records
from relinearize.report import ReportPaths, print_runs, robust_tables, write_report
from relinearize.report.against_paper import compare
from relinearize.report.combinations import build_matrices
from relinearize.report.pareto import build_panels
from relinearize.report.shared_work import SharedWork
from relinearize.report.table import print_against_paper, print_combinations, print_robustness


def report_folders(folders: list[Path], published: bool = True, against_paper: bool = False) -> ReportPaths:
    """Write pareto.csv, pareto.png and report.html into the first folder; print the runs and the paths.

    With robust records among them, robustness.md and what goes with it, too; `against_paper`: likewise the runs beside
    the papers' numbers.
    """
    paths = write_report(folders, published=published, against_paper=against_paper)
    records = [record for _, record in find_records(folders)]
    print_runs(records)
    work = SharedWork.of(records)
    if work.saved:
        print(work)
    panels = build_panels(records, published)
    print_combinations(build_matrices(panels))
    print_robustness(robust_tables(folders, panels))
    if against_paper:
        print_against_paper(compare(records))
    for path in (
        paths.csv,
        paths.png,
        paths.html,
        *paths.masks,
        *paths.searches,
        *paths.combinations,
        *paths.robustness,
        *paths.against_paper,
    ):
        print(path)
    return paths
