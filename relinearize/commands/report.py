"""`relinearize report FOLDER ...`: the files written, and the table on the terminal."""

from pathlib import Path

from relinearize.private_inference.cost.choice import one_preset
from relinearize.private_inference.cost.presets import Preset
from relinearize.records.run import find_records
from relinearize.report import ReportPaths, print_runs, robust_tables, write_report
from relinearize.report.papers.comparison import compare
from relinearize.report.tables.combinations import build_matrices
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.shared_work import SharedWork
from relinearize.report.tables.terminal import print_against_paper, print_combinations, print_robustness


def report_folders(
    folders: list[Path],
    published: bool = True,
    against_paper: bool = False,
    preset: Preset | None = None,
    out: Path | None = None,
) -> ReportPaths:
    """Write pareto.csv, pareto.png and report.html into the first folder, or into `out`; print the runs and the paths.

    preset: what costs of private inference are predicted for (None: Cheetah on the WAN).
    With robust records among them, robustness.md and what goes with it, too; `against_paper`: likewise the runs beside
    the papers' numbers.
    """
    preset = preset or one_preset()
    paths = write_report(folders, out, published, against_paper, preset)
    records = [record for _, record in find_records(folders)]
    print_runs(records, preset=preset)
    if preset.network is None:
        print(f"{preset.name} is computation alone: there are no bytes, hence no pareto_bytes.png")
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
        *paths.costs,
        paths.html,
        *paths.inference,
        *paths.masks,
        *paths.searches,
        *paths.combinations,
        *paths.robustness,
        *paths.against_paper,
    ):
        print(path)
    return paths
