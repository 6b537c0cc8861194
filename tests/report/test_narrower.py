"""The narrower networks that SENet++ leaves: points and curves of their own, whose budget nobody asked for."""

import io
import json

import pytest
from fake_records import fake_record
from rich.console import Console
from test_page import Page, render

from relinearize.records.run import SubmodelRecord
from relinearize.report.tables.pareto import build_panels, pareto_table
from relinearize.report.tables.terminal import print_runs

ASKED = 80_000  # of a run of width 16; its half has 69,632 ReLUs
MET = [30_000, 30_300, 30_900]


def half(seed):
    """The half of a run of width 16: the budget of this run, and what the seed's mask happens to keep there."""
    record = fake_record("senetpp", MET[seed], seed, width=8, name=f"senetpp-s{seed}-w0.5", teacher=False)
    budget = record.budget.model_copy(update={"asked": ASKED})
    return record.model_copy(update={"budget": budget, "submodel": SubmodelRecord(fraction=0.5, run=f"run {seed}")})


HALVES = [half(seed) for seed in range(3)]
WHOLE = [fake_record("senetpp", ASKED, seed) for seed in range(3)]


def test_seeds_are_one_point():
    (panel,) = build_panels(HALVES)
    (point,) = pareto_table([panel]).to_dict("records")
    assert (point["n"], point["relus_asked"], point["relus"], point["relus_total"]) == (3, ASKED, 30_400, 69_632)
    assert point["relus_percent"] == pytest.approx(100 * 30_400 / 69_632, abs=1e-4)


def test_whole_half_and_independently_trained_networks_are_curves_of_their_own():
    alone = [fake_record("senetpp", ASKED, seed, width=8) for seed in range(3)]
    (panel,) = build_panels([*HALVES, *WHOLE, *alone])
    assert list(panel.points["n"]) == [3, 3, 3] and panel.points["curve"].nunique() == 3
    assert sorted(panel.points["label"].str.extract(r"\[(.*)\]", expand=False).dropna()) == [
        "submodel=0.5", "submodel=None",
    ]  # fmt: skip


def printed(records):
    file = io.StringIO()
    print_runs(records, Console(file=file, force_terminal=True, width=200))
    return file.getvalue()


def test_the_terminal_marks_no_miss():
    red = "\x1b[31m"
    text = printed([*HALVES, *WHOLE])
    assert red not in text and "asked" not in text and "30,300" in text
    missed = WHOLE[0].model_copy(update={"budget": WHOLE[0].budget.model_copy(update={"asked": ASKED + 1})})
    text = printed([missed, *HALVES])
    assert text.count(red) == 1 and "asked" in text


def test_the_page_is_told():
    data = json.loads(Page(render([*HALVES, *WHOLE])).data)
    assert {run["key"] for run in data["runs"] if run["narrower"]} == {record.key for record in HALVES}
    assert [level["total"] for level in data["panels"][0]["levels"]] == [139_264]
