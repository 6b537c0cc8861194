"""Runs that are their teacher: nothing searched, nothing fine-tuned, tested and recorded as all others."""

import pytest
from quick_runs import QUICK_ATTACKS, quick_plan, quick_run
from safetensors.torch import load_file

from relinearize.backbones.routes import ROUTES
from relinearize.errors import UserError
from relinearize.records.run import find_records
from relinearize.runs.pipeline import check_stages

ALONE = ["budget=all", "method.finetune.epochs=0"]
ROBUST = [value for value in QUICK_ATTACKS if ".search." not in value]


def test_an_all_relu_run_is_its_teacher(tmp_path):
    record, folder = quick_run(tmp_path, *ALONE, method="all_relu")
    assert record.budget.met == record.budget.total
    (teacher,) = (tmp_path / "store").glob("teacher/*/weights.safetensors")
    left, found = load_file(folder / "weights.safetensors"), load_file(teacher)
    assert left.keys() == found.keys() and all(left[key].equal(found[key]) for key in left)
    assert record.accuracy.test == record.accuracy.teacher_test
    assert record.stages["finetune"].history == [] and record.accuracy.selected_epoch is None


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
    with pytest.raises(UserError, match=r"method\.search=none keeps all 2,304 ReLUs, not 1,152; give budget=all"):
        check_stages(quick_plan(tmp_path, method="all_relu"))
    with pytest.raises(UserError, match=r"method\.teacher\.epochs=0: must be an integer >= 1"):
        check_stages(quick_plan(tmp_path, *ALONE, "method.teacher.epochs=0", method="all_relu"))
