"""One report: the sources and every table made from them, each once. Figures, page, files and W&B show what is here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame

from relinearize.private_inference.cost.presets import Preset, one_preset
from relinearize.report.papers.comparison import compare
from relinearize.report.sources import Sources, read_sources
from relinearize.report.tables.combinations import Matrix, build_matrices
from relinearize.report.tables.inference import build_inferences
from relinearize.report.tables.masks import MaskGroup, build_groups
from relinearize.report.tables.pareto import Panel, build_panels
from relinearize.report.tables.robustness import RobustTable, build_tables
from relinearize.report.tables.search_trajectories import SearchTrajectory, build_trajectories


@dataclass(frozen=True)
class Report:
    """`preset`: what costs of private inference are predicted for. `comparisons`: None unless asked for."""

    sources: Sources
    preset: Preset
    panels: list[Panel]
    robustness: list[RobustTable]
    masks: list[MaskGroup]
    trajectories: list[SearchTrajectory]
    combinations: list[Matrix]
    inferences: DataFrame
    comparisons: DataFrame | None


def make_report(
    folders: Iterable[Path | str], published: bool = True, against_paper: bool = False, preset: Preset | None = None
) -> Report:
    """Read everything below `folders` and make all tables.

    `published`: with the papers' points on the same images. `against_paper`: compare each run with the paper's number
    for it. `preset`: see `cost.presets.one_preset` (None: Cheetah on the WAN).
    Raises UserError where there is nothing to report.
    """
    sources = read_sources(folders)
    records, preset = sources.records, preset or one_preset()
    panels = build_panels(records, published, preset)
    return Report(
        sources=sources,
        preset=preset,
        panels=panels,
        robustness=build_tables(sources.robust, panels),
        masks=build_groups(panels, sources.masks),
        trajectories=build_trajectories(panels),
        combinations=build_matrices(panels),
        inferences=build_inferences(sources.inferences, records),
        comparisons=compare(records) if against_paper else None,
    )
