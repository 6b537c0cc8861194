"""report.html: one self-contained page, readable offline for as long as there are browsers.

The page is a template with style, scripts and data put in; nothing is loaded from anywhere. All text reaches the
document as text nodes, and the data block escapes what could end it, so no name in a record can become markup.
"""

import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pandas import DataFrame

from relinearize.private_inference.cost.presets import Preset, one_preset
from relinearize.records.run import Record, StageRecord
from relinearize.report.figures.style import REPLACEMENT_WORDS, SHARE_COLOURS, SHARE_TICKS, SHORT_WORDS, method_colours
from relinearize.report.page import sections
from relinearize.report.tables.masks import MaskGroup
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.robustness import RobustTable

SCRIPTS = (
    "elements.js", "curve.js", "tables.js", "shares.js", "details.js", "masks.js", "searches.js", "bars.js",
    "inference.js", "main.js",
)  # fmt: skip
STYLES = ("page.css", "masks.css", "inference.css")
STAGES = ("teacher", "sensitivity_first", "sensitivity", "first", "search", "finetune")
MOST_EPOCHS = 300  # points per training curve; more are invisible at 300 pixels and make the page heavy


def render_page(
    panels: Sequence[Panel],
    paths: dict[str, Path],
    robustness: Sequence[RobustTable] = (),
    masks: Sequence[MaskGroup] = (),
    without_mask: Sequence[str] = (),
    preset: Preset | None = None,
    inferences: DataFrame | None = None,
) -> str:
    """The complete page as HTML text. `paths`: record key -> where the record lies, as seen from the page.

    `robustness`: tables of a section of their own; without any, nothing of it is in the page.
    `masks`: likewise; `without_mask`: names of the runs that are missing there.
    `preset`: what costs are predicted for (None: Cheetah on the WAN); `inferences`: what was measured.
    """
    data = page_data(panels, paths, preset)
    measured = inferences is not None and not inferences.empty
    data["inferences"] = sections.inference_data(inferences, [panel.title for panel in panels]) if measured else None
    data["masks"] = sections.mask_data(masks, panels, without_mask) if masks else None
    styles, scripts = STYLES, SCRIPTS
    if robustness:
        data["robustness"] = sections.robustness_data(robustness)
        styles, scripts = (*styles, "robustness.css"), (*scripts, "robustness.js")
    template = environment().get_template("page.html")
    return template.render(styles=_assets(styles), scripts=_assets(scripts), data=data)


def environment() -> Environment:
    """Everything that is put in is escaped, but for our own styles and scripts; `tojson` is safe inside <script>."""
    environment = Environment(
        loader=PackageLoader("relinearize.report.page", "assets"),
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment


def _assets(names: Sequence[str]) -> Markup:
    """Files of our own, put in as they are."""
    folder = resources.files("relinearize.report.page").joinpath("assets")
    return Markup("\n".join(folder.joinpath(name).read_text(encoding="utf-8").strip("\n") for name in names))


def page_data(panels: Sequence[Panel], paths: dict[str, Path], preset: Preset | None = None) -> dict[str, Any]:
    """Everything the scripts draw from, but for masks, inferences and robustness."""
    preset = preset or one_preset()
    histories: dict[str, int] = {}
    rows = [row for panel in panels for row in panel.runs.to_dict("records")]
    runs = [_run(row, paths.get(row["key"]), preset, histories) for row in rows]
    drawn_panels = [
        {
            "dataset": panel.dataset,
            "title": panel.title,
            "series": [
                {
                    **{name: own[name].iloc[0] for name in ("label", "method", "network")},
                    "total": int(own["total"].iloc[0]),
                    "runs": own.index.tolist(),
                }
                for _, own in panel.runs.groupby("curve", sort=False)
            ],
            "levels": [_level(level, preset) for level in panel.levels.to_dict("records")],
            "runs": panel.runs.index.tolist(),
            "published": panel.published.to_dict("records"),
        }
        for panel in panels
    ]
    methods = sorted({row["method"] for row in rows})
    titles = [panel.title for panel in panels]
    return {
        "summary": f"{_counted(len(runs), 'run')} on {', '.join(titles)}; {_counted(len(methods), 'method')}: "
        + ", ".join(methods),
        "colours": method_colours(methods),
        "shareColours": SHARE_COLOURS,
        "shareTicks": SHARE_TICKS,
        "words": REPLACEMENT_WORDS,
        "shortWords": SHORT_WORDS,
        "preset": sections.preset_data(preset),
        "panels": drawn_panels,
        "runs": runs,
        "histories": [json.loads(history) for history in histories],
    }


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _level(level: dict[str, Any], preset: Preset) -> dict[str, Any]:
    std = None if math.isnan(level["accuracy_std"]) else level["accuracy_std"]
    accuracy = {"mean": level["accuracy_mean"], "std": std, "n": level["n"]}
    about = {name: level[name] for name in ("network", "label", "total")} | {"accuracy": accuracy}
    return {**about, "predicted": sections.predicted_data(level, preset)}


def _run(row: dict[str, Any], path: Path | None, preset: Preset, histories: dict[str, int]) -> dict[str, Any]:
    record: Record = row["record"]
    run = record.model_dump(mode="json", exclude={"stages", "config", "schema_version", "cost"})
    run |= {name: row[name] for name in ("network", "teacher")} | {"predicted": sections.predicted_data(row, preset)}
    run["accuracy"]["teacher_test"] = None if math.isnan(row["teacher_test"]) else row["teacher_test"]
    run["narrower"] = record.narrower
    run["path"] = "" if path is None else str(path)
    run["config"] = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True, width=100)
    run["stages"] = [
        {
            **record.stages[name].model_dump(mode="json", exclude={"history"}),
            "name": name,
            # Runs of a sweep share their teacher, often their search: each history is stored once.
            "history": histories.setdefault(json.dumps(_columns(record.stages[name])), len(histories)),
        }
        for name in STAGES
        if name in record.stages
    ]
    return run


def _columns(stage: StageRecord) -> dict[str, list[float | int | None]]:
    """A stage's history, one list per metric; long ones thinned evenly, the last row always kept."""
    rows = stage.history
    if len(rows) > MOST_EPOCHS:
        rows = [rows[round(index * (len(rows) - 1) / (MOST_EPOCHS - 1))] for index in range(MOST_EPOCHS)]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [sections.short_number(row.get(name)) for row in rows] for name in names}
    if rows and "epoch" not in columns:
        columns["epoch"] = list(range(len(rows)))
    return columns
