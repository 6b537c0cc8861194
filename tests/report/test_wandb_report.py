"""The report as a W&B run, offline: its tables, pictures and page, read back from W&B's files."""

import csv
import json
import sys

import pytest
from fake_masks import write_masks
from fake_records import fake_sweep
from fake_robust_records import write_robust
from wandb_files import keep_off, local_paths, runs_below

from relinearize.commands.report import composed_report, wandb_settings
from relinearize.commands.report import main as report_command
from relinearize.errors import UserError

pytest.importorskip("wandb")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    keep_off(monkeypatch, tmp_path / "wandb-own")


def table_of(run, key):
    """Columns and rows of a logged table, from its file."""
    path = run["path"].parent / "files" / run["history"][0][f"{key}.path"]
    content = json.loads(path.read_text())
    return content["columns"], content["data"]


@pytest.mark.slow
def test_tables_pictures_and_page_stand_in_one_run(tmp_path, offline, capsys):
    records = fake_sweep(seeds=(0, 1))
    write_masks(records, tmp_path / "runs")
    write_robust(records[:2], tmp_path / "runs")
    settings = ["logger=wandb", "logger.mode=offline", "logger.group=paper", "logger.tags=[a]"]
    report_command([str(tmp_path / "runs"), *settings])
    assert f"W&B, offline: wandb sync {tmp_path / 'runs' / 'wandb'}" in capsys.readouterr().out

    ((job, (run,)),) = runs_below(tmp_path).items()
    about = run["run"]
    assert (job, about.display_name) == ("report", "report-runs")
    assert (about.project, about.run_group) == ("relinearize", "paper")
    assert "a" in about.tags and records[0].dataset.name in about.tags and run["ended"] == [0]
    assert run["config"]["runs"] == {record.name: record.key for record in records}

    columns, rows = table_of(run, "report/pareto")
    with open(tmp_path / "runs" / "pareto.csv", newline="") as file:
        points = list(csv.DictReader(file))
    assert columns == list(points[0]) and len(rows) == len(points)
    mean = columns.index("accuracy_mean")
    assert [row[mean] for row in rows] == [float(point["accuracy_mean"]) for point in points], "numbers, to plot"
    robust, (mean, checkpoint, *_) = table_of(run, "report/robustness")
    assert mean[robust.index("ca_sd")] > 0 and checkpoint[robust.index("ca_sd")] is None, "an empty cell"
    assert mean[robust.index("seeds")] == "0 1", "text"
    assert {"ca", "npa", "fgsm"} <= set(robust)
    shown = {key.rsplit(".", 1)[0] for key in run["history"][0]}
    assert {f"report/{name}_figure" for name in ("pareto", "masks", "robustness")} | {"report/page"} <= shown
    paths = list(local_paths(run))
    assert paths and all(path.is_file() and tmp_path in path.parents for path in paths)
    (report,) = [each for each in run["artifacts"].values() if each.type == "report"]
    names = {entry.path for entry in report.manifest.contents}
    assert {"pareto.csv", "pareto.png", "report.html", "masks.png", "robustness.md", "robustness.png"} <= names


def test_settings_are_those_of_the_logger_group(offline, monkeypatch):
    default = {"project": "relinearize", "entity": None, "mode": "online", "group": None, "tags": []}
    assert wandb_settings(composed_report(["logger=wandb"])) == default
    assert wandb_settings(composed_report(["logger.project=mine", "logger=wandb"])) == {**default, "project": "mine"}
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_settings(composed_report(["logger=wandb"]))["mode"] == "offline"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["logger=csv"], "report does not know 'logger=csv'; valid: logger=wandb, logger.KEY="),
        (["logger=wandb", "logger.mood=x"], "does not know 'logger.mood=x'; valid: .*logger.mode="),
        (["logger.mode=offline"], "logger.mode=offline: this is a setting of W&B; give logger=wandb, too"),
        (["logger=wandb", "logger.mode=of"], "logger.mode=of is unknown; valid: online, offline, disabled"),
    ],
)
def test_mistakes_are_one_line(tmp_path, offline, arguments, message):
    write_masks(fake_sweep(seeds=(0,))[:1], tmp_path)
    with pytest.raises(UserError, match=message):
        report_command([str(tmp_path), *arguments])
    assert not (tmp_path / "report.html").exists(), "said before the report is made"


@pytest.mark.usefixtures("undrawn")
def test_report_without_it_needs_no_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    write_masks(fake_sweep(seeds=(0,))[:1], tmp_path)
    report_command([str(tmp_path)])
    assert (tmp_path / "report.html").is_file()
