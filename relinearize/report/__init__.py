"""Tables, picture and page, made from records alone. Imports no torch, and matplotlib only when it draws."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from relinearize.private_inference.cost.presets import Preset
    from relinearize.records.run import Record
    from relinearize.report.tables.inference import Inference
    from relinearize.report.tables.masks import MaskGroup
    from relinearize.report.tables.pareto import Panel
    from relinearize.report.tables.robustness import RobustTable


@dataclass(frozen=True)
class ReportPaths:
    """The files that a report wrote."""

    csv: Path
    png: Path
    html: Path
    costs: tuple[Path, ...] = ()  # pareto_latency.png, pareto_bytes.png, latency_split.png, as far as costs are known
    inference: tuple[Path, ...] = ()  # inference.md and what goes with it, where there are measured inferences
    masks: tuple[Path, ...] = ()  # masks.png, where there are mask files beside the records
    searches: tuple[Path, ...] = ()  # searches.png, where searches recorded their sites
    combinations: tuple[Path, ...] = ()  # combinations.md, where searches were crossed with fine-tunings
    robustness: tuple[Path, ...] = ()  # robustness.md and what goes with it, where there are robust records
    against_paper: tuple[Path, ...] = ()  # against_paper.md and .csv, where asked for


def write_report(
    folders: Sequence[Path | str],
    out: Path | str | None = None,
    published: bool = True,
    against_paper: bool = False,
    preset: "Preset | None" = None,
) -> ReportPaths:
    """Write pareto.csv, pareto.png and report.html from every record below `folders`.

    What private inference costs is predicted under `preset` (`cost.choice.one_preset`; None: Cheetah on the WAN):
    pareto_latency.png, pareto_bytes.png (not for computation alone) and latency_split.png. Where inferences were
    measured, inference.md, inference.csv, inference.png and inference_split.png, too.
    Where masks lie beside the records, masks.png, too; runs without one are left out of it and named in the log.
    Where searches recorded what became of each site, searches.png, too; where searches were crossed with fine-tunings,
    combinations.md.
    Where there are robust records, robustness.md, robustness.csv, robustness_corruptions.csv and robustness.png, too.
    `out`: the folder they go to, the first of `folders` if None. Each file is written atomically. `published`: with the
    papers' points on the same images, which runs at reduced scale cannot be compared with. `against_paper`: also
    against_paper.md and against_paper.csv, each run beside the papers' number for it.
    Raises UserError where there is nothing to report or `out` cannot be written.
    """
    from relinearize.errors import UserError
    from relinearize.files import write_bytes
    from relinearize.private_inference.cost.choice import one_preset
    from relinearize.records.run import find_records
    from relinearize.report.figures.pareto import draw_pareto
    from relinearize.report.page.page import render_page
    from relinearize.report.tables.inference import find_inferences
    from relinearize.report.tables.mask_files import masks_beside
    from relinearize.report.tables.masks import build_groups
    from relinearize.report.tables.pareto import build_panels, pareto_csv

    folders = [Path(folder) for folder in folders]
    if not folders:
        raise UserError("report: name at least one folder that holds record.json files")
    found = find_records(folders)
    first = folders[0].parent if folders[0].is_file() else folders[0]
    place = first if out is None else Path(out)
    preset = preset or one_preset()
    panels = build_panels([record for _, record in found], published)
    inferences = find_inferences(folders, [record for _, record in found])
    tables = robust_tables(folders, panels)
    robust_files = _robust_files(tables, place)
    beside = _paper_files([record for _, record in found], place) if against_paper else {}
    masks, without_mask = masks_beside(found)
    groups = build_groups(panels, masks)
    mask_files = _mask_files(groups, place)
    search_files = _search_files(panels, place)
    main = (place / "pareto.csv", place / "pareto.png", place / "report.html")
    costs = _cost_files(panels, preset, place)
    measured = _inference_files(inferences, place)
    crossed = _combinations(panels, place)
    further = (costs, measured, mask_files, search_files, crossed, robust_files, beside)
    paths = ReportPaths(*main, *map(tuple, further))
    try:
        write_bytes(paths.csv, pareto_csv(panels, preset).encode())
        write_bytes(paths.png, draw_pareto(panels))
        # Seen from the page: a folder that is moved or shared keeps true paths, and names no machine.
        lying = {record.key: Path(os.path.relpath(path, place)) for path, record in found}
        sections = {"robustness": tables, "masks": groups, "without_mask": without_mask, "inferences": inferences}
        page = render_page(panels, lying, preset=preset, **sections)
        write_bytes(paths.html, page.encode())
        for path, content in (item for files in further for item in files.items()):
            write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{place}: the report cannot be written here ({error.strerror})") from error
    return paths


def robust_tables(folders: "Iterable[Path | str]", panels: "Sequence[Panel]") -> "list[RobustTable]":
    """The robustness tables of the runs below `folders`, none where no run was evaluated so."""
    from relinearize.records.robustness import ROBUST_FILE, find_robust_records
    from relinearize.report.tables.robustness import build_tables

    # A record that was named itself stands for its folder's robust record.
    named = [path.with_name(ROBUST_FILE) if path.is_file() else path for path in map(Path, folders)]
    return build_tables([record for _, record in find_robust_records(path for path in named if path.exists())], panels)


def _cost_files(panels: "Sequence[Panel]", preset: "Preset", place: Path) -> dict[Path, bytes]:
    from relinearize.report.figures.axes import cost_axes, covered
    from relinearize.report.figures.latency import draw_split
    from relinearize.report.figures.pareto import draw_pareto
    from relinearize.report.tables.latency_split import latency_splits

    files = {
        place / f"pareto_{name}.png": draw_pareto(panels, axis)
        for name, axis in cost_axes(preset).items()
        if covered(axis, panels)
    }
    splits = latency_splits(panels, preset)
    return {**files, place / "latency_split.png": draw_split(splits, preset)} if splits else files


def _inference_files(inferences: "Sequence[Inference]", place: Path) -> dict[Path, bytes]:
    if not inferences:
        return {}
    from relinearize.report.figures.inference import draw_inference, draw_inference_split
    from relinearize.report.tables.inference import curves
    from relinearize.report.tables.inference_files import inference_csv, inference_markdown

    files = {
        place / "inference.md": inference_markdown(inferences).encode(),
        place / "inference.csv": inference_csv(inferences).encode(),
        place / "inference_split.png": draw_inference_split(inferences),
    }
    return {**files, place / "inference.png": draw_inference(inferences)} if curves(inferences) else files


def _mask_files(groups: "Sequence[MaskGroup]", place: Path) -> dict[Path, bytes]:
    if not groups:
        return {}
    from relinearize.report.figures.masks import draw_masks

    return {place / "masks.png": draw_masks(groups)}


def _search_files(panels: "Sequence[Panel]", place: Path) -> dict[Path, bytes]:
    from relinearize.report.tables.search_trajectories import build_ways

    ways = build_ways(panels)
    if not ways:
        return {}
    from relinearize.report.figures.searches import draw_searches

    return {place / "searches.png": draw_searches(ways)}


def _combinations(panels: "Sequence[Panel]", place: Path) -> dict[Path, bytes]:
    from relinearize.report.tables.combinations import build_matrices, combinations_markdown

    matrices = build_matrices(panels)
    return {place / "combinations.md": combinations_markdown(matrices).encode()} if matrices else {}


def _robust_files(tables: "Sequence[RobustTable]", place: Path) -> dict[Path, bytes]:
    if not tables:
        return {}
    from relinearize.report.figures.robustness import draw_robustness
    from relinearize.report.tables.robustness_files import corruptions_csv, robustness_csv, robustness_markdown

    return {
        place / "robustness.md": robustness_markdown(tables).encode(),
        place / "robustness.csv": robustness_csv(tables).encode(),
        place / "robustness_corruptions.csv": corruptions_csv(tables).encode(),
        place / "robustness.png": draw_robustness(tables),
    }


def _paper_files(records: "Sequence[Record]", place: Path) -> dict[Path, bytes]:
    from relinearize.report.papers.comparison import against_paper_csv, against_paper_markdown, compare

    compared = compare(records)
    return {
        place / "against_paper.md": against_paper_markdown(compared).encode(),
        place / "against_paper.csv": against_paper_csv(compared).encode(),
    }


def print_runs(records: "Iterable[Record]", console: "Console | None" = None, preset: "Preset | None" = None) -> None:
    """Print the runs as a table on `console` (standard output if None), with their cost under `preset` (as above)."""
    from relinearize.private_inference.cost.choice import one_preset
    from relinearize.report.tables.terminal import print_table

    print_table(records, preset or one_preset(), console)
