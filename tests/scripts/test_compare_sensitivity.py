"""scripts/compare_sensitivity.py: its table, files and refusals, on made-up records."""

import csv
import sys
from pathlib import Path

import pytest

from relinearize.methods.senet.released import RELEASED
from relinearize.records.run import Record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "report"))
    monkeypatch.setenv("COLUMNS", "160")
    import compare_sensitivity

    yield compare_sensitivity
    for name in ("compare_sensitivity", "fake_records"):
        sys.modules.pop(name, None)


def write(folder, sensitivities, target="relinearize.methods.senet.sparse_training.SparseTraining", **options):
    from fake_records import fake_record

    record = fake_record("senet", **options)
    values = record.model_dump(mode="json")
    values["config"]["sensitivity"] = {"_target_": target}
    for site, value in zip(values["sites"], sensitivities, strict=True):
        site["sensitivity"] = value
    Record.model_validate(values).write(folder / "record.json")
    return record.name


def test_two_budgets_of_one_vector_and_another_seed(script, tmp_path, capsys):
    swapped = [2 * eta for eta in RELEASED["resnet18"]]
    swapped[3], swapped[4] = swapped[4], swapped[3]
    names = [write(tmp_path / f"run{asked}", swapped, asked=asked) for asked in (7000, 14000)]
    write(tmp_path / "seed1", [0.5] * 17, seed=1)
    assert script.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    # Two neighbours of 17 exchanged: 1 - 6 * 2 / (17 * (17^2 - 1)).
    assert f"{1 - 12 / (17 * 288):.3f}" in shown and "by the order of the sites alone 1.000" in shown
    assert "not defined" in shown and "layer4.1.relu2" in shown
    with open(tmp_path / "run14000" / "sensitivity.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 34
    assert rows[0]["runs"].split() == [names[1], names[0]]
    assert float(rows[3]["ours"]) == RELEASED["resnet18"][4] and float(rows[3]["released"]) == RELEASED["resnet18"][3]
    assert float(rows[0]["spearman"]) == pytest.approx(1 - 12 / (17 * 288), abs=1e-6)
    assert (tmp_path / "run14000" / "sensitivity.png").read_bytes().startswith(b"\x89PNG")


def test_snl_convention_and_out(script, tmp_path):
    write(tmp_path / "run", RELEASED["resnet18"][1:], convention="snl")
    assert script.main([str(tmp_path / "run" / "record.json"), "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "sensitivity.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and all(row["ours"] == row["released"] for row in rows)
    assert not (tmp_path / "run" / "sensitivity.csv").exists()


@pytest.mark.parametrize(
    ("sensitivities", "target", "message"),
    [
        ([None] * 17, "x", "used no sensitivities"),
        (RELEASED["resnet18"], "relinearize.methods.senet.released.Released", "released sensitivities themselves"),
        ([0.0] * 17, "x", "all its sensitivities are 0"),
    ],
)
def test_one_line_for_records_with_nothing_to_compare(script, sensitivities, target, message, tmp_path, capsys):
    write(tmp_path, sensitivities, target)
    assert script.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert message in said and str(tmp_path) in said and said.count("\n") == 1
    assert not (tmp_path / "sensitivity.csv").exists()


def test_missing_folder(script, tmp_path, capsys):
    assert script.main([str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err
