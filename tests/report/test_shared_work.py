"""What sharing saves: each stage counted once, by its key, against each run on its own."""

import pytest
from fake_records import fake_record

from relinearize.commands.report import main as report_command
from relinearize.records.run import SubmodelRecord
from relinearize.report.tables.shared_work import shared_work


def three_budgets():
    """One teacher, one search whose way to the smallest budget is the longest, three fine-tunings."""
    records = []
    for asked, search in ((50_000, 30.0), (20_000, 60.0), (10_000, 80.0)):
        record = fake_record("snl", asked)
        done = {"teacher": ("one", 100.0), "search": ("another", search), "finetune": (str(asked), 20.0)}
        for name, (key, seconds) in done.items():
            record.stages[name] = record.stages[name].model_copy(update={"key": key, "seconds": seconds})
        records.append(record)
    return records


def test_each_stage_is_done_once():
    # 100 + 80 + 3 * 20 seconds were done, 3 * 120 + 30 + 60 + 80 would be needed.
    text = "3 runs: 4 min 0 s of training; each on its own: 8 min 50 s (55 % saved by sharing stages)"
    assert shared_work(three_budgets()) == text


def test_a_search_that_another_run_begins_with_is_done_once():
    """BCD's first search, say, or the one that sensitivities are learned from."""
    run = three_budgets()[0]
    stages = run.stages | {"first": run.stages["search"]}
    beginning = run.model_copy(update={"stages": {name: stages[name] for name in ("teacher", "first")}})
    assert shared_work([run, beginning]).startswith("2 runs: 2 min 30 s of training; each on its own: 4 min 40 s")


def test_one_run_saves_nothing():
    assert shared_work(three_budgets()[:1]) == ""


def test_networks_beside_a_run_cost_nothing():
    runs = three_budgets()
    beside = runs[0].model_copy(update={"submodel": SubmodelRecord(fraction=1.0, run=runs[0].key), "route": "other"})
    assert shared_work([*runs, beside]) == shared_work(runs)


@pytest.mark.usefixtures("undrawn")
def test_report_says_it(tmp_path, capfd):
    for position, record in enumerate(three_budgets()):
        record.write(tmp_path / str(position) / "record.json")
    report_command([str(tmp_path)])
    assert "3 runs: 4 min 0 s of training; each on its own: 8 min 50 s" in capfd.readouterr().out
