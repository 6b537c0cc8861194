"""One report: the sources and every table made from them, each once; their files, and the same in Weights & Biases."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from relinearize.errors import UserError
from relinearize.files import write_bytes, write_text
from relinearize.private_inference.cost.presets import Preset, one_preset
from relinearize.records.run import find_records
from relinearize.report.figures.costs import draw_inference, draw_inference_split, draw_latency_split, latency_splits
from relinearize.report.figures.masks import draw_masks
from relinearize.report.figures.pareto import PREDICTIONS, RELUS, cost_axes, covered, draw_pareto
from relinearize.report.figures.robustness import draw_robustness
from relinearize.report.figures.searches import build_trajectories, draw_searches
from relinearize.report.page.page import render_page
from relinearize.report.papers.comparison import COLUMNS, against_paper_markdown, compare
from relinearize.report.sources import find_inferences, find_masks, find_robustness
from relinearize.report.tables.combinations import build_matrices, combinations_markdown
from relinearize.report.tables.inference import build_inferences, inference_markdown
from relinearize.report.tables.masks import build_groups
from relinearize.report.tables.pareto import build_panels, pareto_table
from relinearize.report.tables.robustness import build_tables
from relinearize.report.tables.robustness_text import corruptions_csv, robustness_csv, robustness_markdown
from relinearize.report.tables.text import csv_text
from relinearize.tracking.wandb_run import wandb_run


class Report:
    """Everything below some folders, and every table made of it, each once.

    Args:
        folders: of runs; a record file among them stands for its folder.
        published: with the papers' points on the same images.
        against_paper: compare each run with the paper's number for it.
        preset: what costs of private inference are predicted for; None: Cheetah on the WAN.

    Raises UserError where a folder does not exist or holds no run. Unreadable files are named in the log.
    """

    def __init__(
        self,
        folders: Iterable[Path | str],
        published: bool = True,
        against_paper: bool = False,
        preset: Preset | None = None,
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        if not self.folders:
            raise UserError("report: name at least one folder that holds record.json files")
        self.preset = preset or one_preset()
        self.runs = find_records(self.folders)
        self.records = [record for _, record in self.runs]
        self.panels = build_panels(self.records, published, self.preset)
        self.robustness = build_tables(find_robustness(self.folders, self.runs), self.panels)
        masks, self.without_mask = find_masks(self.runs)
        self.masks = build_groups(self.panels, masks)
        self.trajectories = build_trajectories(self.panels)
        self.combinations = build_matrices(self.panels)
        runs = pd.concat([panel.runs for panel in self.panels])
        self.inferences = build_inferences(find_inferences(self.folders), runs)
        self.comparisons = compare(runs) if against_paper else None


def write_report(report: Report, out: Path | str | None = None) -> dict[str, Path]:
    """Write every file of `report` atomically into `out` (None: the first of its folders): name -> path.

    Raises UserError where `out` cannot be written.
    """
    first = report.folders[0]
    folder = Path(out) if out is not None else first.parent if first.is_file() else first
    paths = {}
    try:
        for name, content in report_files(report, folder):
            if content is None:  # an earlier report may have had something to show
                (folder / name).unlink(missing_ok=True)
                continue
            paths[name] = folder / name
            (write_bytes if isinstance(content, bytes) else write_text)(paths[name], content)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written here ({error.strerror}); give out=FOLDER") from error
    return paths


def report_files(report: Report, folder: Path) -> Iterator[tuple[str, str | bytes | None]]:
    """Name and content of each file, None where there is nothing to show. `folder`: where they will lie."""
    panels, preset, inferences, robust = report.panels, report.preset, report.inferences, report.robustness
    axes, splits = cost_axes(preset), latency_splits(panels, preset)
    yield "pareto.csv", csv_text(pareto_table(panels))
    yield "pareto.png", draw_pareto(panels)
    for name in ("latency", "bytes"):
        drawn = name in axes and covered(axes[name], panels)
        yield f"pareto_{name}.png", draw_pareto(panels, axes[name]) if drawn else None
    for name, measure in PREDICTIONS.items():
        yield f"{name}.png", draw_pareto(panels, measure=measure) if covered(RELUS, panels, measure) else None
    yield "latency_split.png", None if splits.empty else draw_latency_split(splits, preset)
    # Seen from the page: a folder that is moved or shared keeps true paths, and names no machine.
    paths = {record.key: Path(os.path.relpath(path, folder)) for path, record in report.runs}
    parts = {"robustness": robust, "masks": report.masks, "without_mask": report.without_mask, "preset": preset}
    yield "report.html", render_page(panels, paths, inferences=inferences, **parts)
    measured = not inferences.empty
    known = measured and inferences["test_accuracy"].notna().any()
    yield "inference.md", inference_markdown(inferences) if measured else None
    yield "inference.csv", csv_text(inferences.loc[:, :"created"]) if measured else None
    yield "inference_split.png", draw_inference_split(inferences) if measured else None
    yield "inference.png", draw_inference(inferences) if known else None
    yield "masks.png", draw_masks(report.masks) if report.masks else None
    yield "searches.png", None if report.trajectories.empty else draw_searches(report.trajectories)
    yield "combinations.md", combinations_markdown(report.combinations) if report.combinations else None
    yield "robustness.md", robustness_markdown(robust) if robust else None
    yield "robustness.csv", robustness_csv(robust) if robust else None
    corrupted = any(row.first.corruptions for table in robust for row in table.checkpoints)
    yield "robustness_corruptions.csv", corruptions_csv(robust) if corrupted else None
    yield "robustness.png", draw_robustness(robust) if robust else None
    compared = report.comparisons
    yield "against_paper.md", None if compared is None else against_paper_markdown(compared)
    yield "against_paper.csv", None if compared is None else csv_text(compared, COLUMNS)


def log_report(report: Report, paths: Mapping[str, Path], settings: Mapping[str, Any]) -> str:
    """Send the files as a W&B run of their own: CSV as tables, PNG as images, the page, all together as an artifact.

    `settings`: of the `logger` group. Returns the run's address, or what to do offline.
    """
    import wandb

    place = paths["report.html"].parent
    records = report.records
    tags = sorted({name for record in records for name in (record.dataset.name, record.backbone.name)})
    about = {
        "name": f"report-{place.resolve().name}",
        "job_type": "report",
        "group": settings["group"],
        "tags": [*tags, *settings["tags"]],
        "config": {"runs": {record.name: record.key for record in records}},
    }
    with wandb_run(settings, place, **about) as run:
        shown: dict[str, Any] = {}
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        for path in paths.values():
            artifact.add_file(str(path), skip_cache=True)
            if path.suffix == ".csv":
                frame = pd.read_csv(path, keep_default_na=False, na_values=[""])  # None where a cell is empty
                frame = frame.astype(object).where(frame.notna(), None)
                shown[f"report/{path.stem}"] = wandb.Table(columns=list(frame), data=frame.values.tolist())
            elif path.suffix == ".png":
                shown[f"report/{path.stem}_figure"] = wandb.Image(str(path))
            elif path.suffix == ".html":
                shown["report/page"] = wandb.Html(str(path), inject=False)
        run.log(shown)
        run.log_artifact(artifact)
        return run.url or f"W&B, {settings['mode']}: wandb sync {place / 'wandb'}"
