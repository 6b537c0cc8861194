"""`relinearize report FOLDER ...`: the files written, and the tables on the terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.report import make_report
from relinearize.report.tables.shared_work import SharedWork
from relinearize.report.tables.terminal import print_against_paper, print_combinations, print_robustness, print_runs
from relinearize.report.write import log_report, write_report


@dataclass(frozen=True)
class ReportOptions:
    """What the command is asked for.

    out: where the files go (None: the first folder). preset: what costs of private inference are predicted for (None:
    Cheetah on the WAN). wandb: settings of the `logger` group, None without a W&B run.
    """

    folders: tuple[Path, ...]
    out: Path | None = None
    published: bool = True
    against_paper: bool = False
    preset: Preset | None = None
    wandb: Mapping[str, Any] | None = None


def report_folders(options: ReportOptions) -> dict[str, Path]:
    """Write the report, print its tables and the paths of its files. Returns name -> path."""
    report = make_report(options.folders, options.published, options.against_paper, options.preset)
    paths = write_report(report, options.out)
    print_runs(report.sources.records, preset=report.preset)
    if report.preset.network is None:
        print(f"{report.preset.name} is computation alone: there are no bytes, hence no pareto_bytes.png")
    work = SharedWork.of(report.sources.records)
    if work.saved:
        print(work)
    print_combinations(report.combinations)
    print_robustness(report.robustness)
    if report.comparisons is not None:
        print_against_paper(report.comparisons)
    for path in paths.values():
        print(path)
    if options.wandb is not None:
        print(log_report(report, paths, options.wandb))
    return paths
