"""Searches crossed with fine-tunings: which runs make a matrix, its cells, the Markdown and the printed tables."""

from dataclasses import replace

import pytest
from fake_records import fake_record

from relinearize.commands.report import main as report_command
from relinearize.records.run import SubmodelRecord
from relinearize.report.report import Report, write_report
from relinearize.report.tables.combinations import build_matrices, combinations_markdown
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.terminal import print_combinations

BUDGETS = (35_000, 14_000)


def with_accuracy(method, asked, accuracy, seed=0, **changes):
    record = fake_record(method, asked, seed)
    return record.model_copy(update={"accuracy": record.accuracy.model_copy(update={"test": accuracy}), **changes})


def crossed():
    """snl and senet x distill and senet at two budgets, one of these four only at the larger one."""
    values = {"snl+distill": 60.0, "snl+senet": 61.0, "senet+distill": 62.5, "senet+senet": 59.0}
    records = [
        with_accuracy(name, asked, value - (asked < 20_000)) for name, value in values.items() for asked in BUDGETS
    ]
    return records[:-1]


def matrices_of(records):
    return build_matrices(build_panels(records, published=False))


def test_a_matrix_for_every_budget():
    large, small = matrices_of([*crossed(), fake_record("snl"), fake_record("random", 14_000)])
    assert (large.asked, small.asked) == BUDGETS
    assert list(large.means.index) == ["senet", "snl"] and list(large.means.columns) == ["distill", "senet"]
    assert large.means.loc["senet", "distill"] == 62.5 and small.means.loc["snl", "senet"] == 60.0
    assert large.means.notna().loc["senet", "senet"] and not small.means.notna().loc["senet", "senet"]


def test_seeds_are_averaged_and_networks_beside_a_run_left_out():
    beside = with_accuracy("snl+distill", 35_000, 10.0, submodel=SubmodelRecord(fraction=1.0, run="x"), key="beside")
    large, _ = matrices_of([*crossed(), with_accuracy("snl+distill", 35_000, 64.0, seed=1), beside])
    assert large.means.loc["snl", "distill"] == 62.0
    assert large.texts.loc["snl", "distill"] == f"62.00 ± {8**0.5:.2f}", "of two seeds"


def test_curves_of_other_settings_are_counted(capfd):
    other = fake_record("snl+distill", finetune_lr=0.5)
    again = with_accuracy("senet+senet", 35_000, 70.0, key="f" * 64, created="2026-01-01T00:00:00+00:00")
    matrices = matrices_of([*crossed(), other, again])
    assert [len(matrix.left_out) for matrix in matrices] == [2, 0]
    assert matrices[0].means.loc["senet", "senet"] != 70.0, "of repeated runs the first"
    reason = "a cell shows the first of several settings, and of repeated runs."
    assert combinations_markdown(matrices).count(f"2 curves left out: {reason}") == 1
    print_combinations(matrices)
    assert f"2 curves left out: {reason}" in capfd.readouterr().out
    assert "left out" not in combinations_markdown(matrices_of(crossed()))


@pytest.mark.parametrize(
    "names", [("snl",), ("snl+distill",), ("snl+distill", "senet+senet"), ("snl+distill+x", "a+b+c")]
)
def test_what_crosses_nothing_makes_no_matrix(names):
    assert matrices_of([fake_record(name) for name in names]) == []


def test_a_replacement_is_no_fine_tuning():
    kinds = ("affine", "quadratic")
    assert matrices_of([with_accuracy(f"snl+{kind}", 35_000, 60.0, replacement=kind) for kind in kinds]) == []


def test_an_allocation_is_no_fine_tuning():
    names = ("snl+sites", "senet+sites", "snl+cost")
    records = [with_accuracy(name, 35_000, 60.0) for name in names]
    for record in records:
        record.config["allocation"] = {"name": record.method.name.partition("+")[2]}
    assert matrices_of(records) == []


def test_markdown_marks_the_best_and_the_missing():
    text = combinations_markdown(matrices_of(crossed()))
    rows = {line.split(" | ")[0] + " " + line.split(" | ")[1]: line for line in text.splitlines() if "ReLUs" in line}
    assert text.count("| budget | search |") == 1
    assert "**62.50**" in rows["| 35,000 ReLUs, 25 % senet"] and "**" not in rows["| 35,000 ReLUs, 25 % snl"]
    assert "-" in rows["| 14,000 ReLUs, 10 % senet"]
    titled = combinations_markdown([replace(one, title="<img src=x> a*b*\nc") for one in matrices_of(crossed())])
    assert "<img" not in titled and "a*b*" not in titled and "\nc" not in titled


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_report_writes_and_prints_them(tmp_path, capfd):
    for position, record in enumerate(crossed()):
        record.write(tmp_path / "runs" / str(position) / "record.json")
    report_command([str(tmp_path / "runs")])
    printed = capfd.readouterr().out
    assert "14,000 ReLUs, 10 %, test accuracy in %" in printed and str(tmp_path / "runs" / "combinations.md") in printed
    assert "**62.50**" in (tmp_path / "runs" / "combinations.md").read_text()
    fake_record("snl").write(tmp_path / "alone" / "record.json")
    assert "combinations.md" not in write_report(Report([tmp_path / "alone"]))
