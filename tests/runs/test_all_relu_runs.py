"""Runs without a search: those that are their teacher, and those that keep no ReLU, recorded as all others."""

import pytest
from quick_runs import QUICK_ATTACKS, quick_plan, quick_run
from safetensors.torch import load_file

from relinearize.backbones.routes import ROUTES
from relinearize.errors import UserError
from relinearize.records.run import find_records
from relinearize.relu.mask import Mask
from relinearize.report.tables.cost import record_workload
from relinearize.runs.pipeline import check_stages

ALONE = ["method.finetune.epochs=0"]
ROBUST = [value for value in QUICK_ATTACKS if ".search." not in value]


def test_an_all_relu_run_is_its_teacher(tmp_path):
    record, folder = quick_run(tmp_path, *ALONE, method="all_relu")
    assert record.budget.met == record.budget.total
    (teacher,) = (tmp_path / "store").glob("teacher/*/weights.safetensors")
    left, found = load_file(folder / "weights.safetensors"), load_file(teacher)
    assert left.keys() == found.keys() and all(left[key].equal(found[key]) for key in left)
    assert record.accuracy.test == record.accuracy.teacher_test
    assert record.stages["finetune"].history == [] and record.accuracy.selected_epoch is None


@pytest.mark.parametrize(("replacement", "quadratics"), [("identity", 0), ("quadratic", 2304)])
def test_a_network_without_relus_is_counted_exported_and_reported(typed, tmp_path, undrawn, replacement, quadratics):
    record, folder = quick_run(tmp_path, f"replacement={replacement}", method="no_relu")
    assert (record.budget.asked, record.budget.met, record.unit, record.replacement) == (0, 0, "layers", replacement)
    assert Mask.from_file(folder / "mask.safetensors")[0].count == 0
    found = record_workload(record)
    assert (found.relus, found.live_sites, found.quadratic) == (0, 0, quadratics)
    status, *printed = typed("export", f"run={folder}", f"output={tmp_path / 'bundle'}")
    assert status == 0 and "0 of 2,304 ReLUs kept, at 0 of 7 sites" in "".join(printed)
    status, _, printed = typed("report", folder)
    assert status == 0 and (folder / "pareto.png").is_file(), printed


@pytest.mark.slow
def test_a_robust_one_has_a_record_for_each_route(tmp_path):
    _, folder = quick_run(tmp_path, *ALONE, *ROBUST, method="rlnet_all_relu")
    records = [found for _, found in find_records([folder])]
    assert {found.route for found in records} == set(ROUTES[2])
    assert all(found.budget.met == found.budget.total for found in records)


def test_searched_networks_can_stay_as_they_are(tmp_path):
    record, folder = quick_run(tmp_path, "budget.fraction=0.4", "method.finetune.epochs=0")
    (snapshot,) = (tmp_path / "store").glob("search/*/budget-*/weights.safetensors")
    left, found = load_file(folder / "weights.safetensors"), load_file(snapshot)
    assert all(left[key].equal(found[key]) for key in left)
    assert record.budget.met == record.budget.asked


def test_a_budget_below_all_and_a_teacher_without_epochs_are_refused(tmp_path):
    with pytest.raises(UserError, match="AllReLUs keeps 2,304 ReLUs; give no other budget"):
        quick_plan(tmp_path, "budget=half", method="all_relu")
    with pytest.raises(UserError, match="NoReLUs keeps 0 ReLUs; give no other budget"):
        quick_plan(tmp_path, "budget=half", method="no_relu")
    assert quick_plan(tmp_path, "budget.relus=0", method="no_relu").request.budget == 0
    with pytest.raises(UserError, match=r"method\.teacher\.epochs=0: must be an integer >= 1"):
        check_stages(quick_plan(tmp_path, *ALONE, "method.teacher.epochs=0", method="all_relu"))
