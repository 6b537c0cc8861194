"""`relinearize report FOLDER ...`: the files written, and the tables on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from relinearize.commands.composing import Place, checked, command_options, composed
from relinearize.errors import UserError
from relinearize.private_inference.cost.presets import one_preset
from relinearize.tracking.interface import LoggerSettings

USAGE = (
    "relinearize report FOLDER ... [out=FOLDER] [preset=NAME] [network=NAME] [published=false] [--against-paper] "
    "[logger=wandb]"
)


@command_options
class ReportOptions:
    """conf/report.yaml."""

    folders: list[Place]
    out: Place | None
    preset: str | None
    network: str | None
    published: bool
    against_paper: bool
    sweep: str | None

    def __post_init__(self) -> None:
        if not self.folders:
            raise UserError(f"{USAGE}: give the folders of runs, for example outputs/runs")


def main(arguments: Sequence[str]) -> dict[str, Path]:
    """Write the report, print its tables and the paths of its files. Returns name -> path."""
    words = ["against_paper=true" if word == "--against-paper" else word for word in arguments]
    known = ("--help", "--cfg", "--config-dir")
    if unknown := [word for word in words if word.startswith("--") and not word.startswith(known)]:
        raise UserError(f"report does not know {unknown[0]!r}; {USAGE}")
    config = composed_report(words)
    options = checked(ReportOptions, config)
    preset, wandb = one_preset(options.preset, options.network), wandb_settings(config)
    from relinearize.report.papers.comparison import shown_comparisons
    from relinearize.report.report import Report, log_report, write_report
    from relinearize.report.tables import terminal
    from relinearize.report.tables.shared_work import shared_work

    report = Report(options.folders, options.published, options.against_paper, preset)
    terminal.print_runs(report.records, preset=report.preset)
    if report.preset.network is None:
        print(f"{report.preset.name} is computation alone: there are no bytes, hence no pareto_bytes.png")
    if work := shared_work(report.records):
        print(work)
    terminal.print_combinations(report.combinations)
    terminal.print_robustness(report.robustness)
    if report.comparisons is not None:
        matched, alone = shown_comparisons(report.comparisons)
        if not matched.empty:
            terminal.print_texts("Against the papers (test accuracy, %)", matched, right=matched.columns[2:7])
        if not alone.empty:
            terminal.print_texts("No published counterpart", alone)
    paths = write_report(report, options.out)  # after the tables: they are of use where nothing can be written
    for path in paths.values():
        print(path)
    if wandb is not None:
        print(log_report(report, paths, wandb))
    return paths


def composed_report(words: Sequence[str]) -> DictConfig:
    """UserError for settings of W&B without W&B, and for other loggers."""
    loggers = [word for word in words if word.startswith("logger=")]
    settings = [word for word in words if word.startswith("logger.")]
    if settings and not loggers:
        raise UserError(f"relinearize report {settings[0]}: this is a setting of W&B; give logger=wandb, too")
    if loggers and loggers[-1] not in ("logger=wandb", "logger=none"):
        raise UserError(f"report does not know {loggers[-1]!r}; valid: logger=wandb, logger.KEY= with it")
    return composed("report", words, ReportOptions, positional="folders")


def wandb_settings(config: DictConfig) -> dict[str, Any] | None:
    """project, entity, mode, group and tags; None without logger=wandb. UserError for what W&B would not take."""
    settings = OmegaConf.to_container(config.logger, resolve=True)
    if settings.pop("name") != "wandb":
        return None
    LoggerSettings("wandb", Path(), **settings)  # checks them
    return settings
