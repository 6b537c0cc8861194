"""One search serves a whole curve, whatever the order in which the budgets are asked."""

import math
import re

import pytest
import torch
from quick_runs import (
    LARGE,
    MIDDLE,
    QUICK,
    SEARCH,
    SMALL,
    UNREACHED,
    assert_same_tensors,
    lasting,
    quick_plan,
    quick_run,
    trained_epochs,
)

from relinearize.errors import UserError
from relinearize.methods.stage.snapshot import without_alphas
from relinearize.records.run import find_records
from relinearize.runs import search as searching
from relinearize.runs.pipeline import check_stages
from relinearize.runs.search import search_inputs
from relinearize.targets import builder
from relinearize.training.checkpoint import read_checkpoint


@pytest.mark.slow
def test_multirun_of_three_budgets_does_one_searchs_worth_of_epochs(tmp_path, alone, typed):
    budgets = f"budget.fraction={LARGE},{MIDDLE},{SMALL}"
    status, out, err = typed("run", *QUICK, *SEARCH, f"output={tmp_path}", "-m", budgets, "trainer.progress=lines")
    assert status == 0, err
    lines = out.splitlines()
    longest = sum("seconds" in row for row in alone[SMALL][0].stages["search"].history)  # whole epochs
    assert [sum(line.startswith(stage) for line in lines) for stage in ("teacher", "search", "finetune")] == [
        3, longest, 6,
    ]  # fmt: skip
    assert len(list(tmp_path.glob("store/teacher/*/artifact.json"))) == 1
    assert trained_epochs(tmp_path) == [longest]
    found = dict(
        (round(record.budget.met / record.budget.total, 2), (record, path.parent))
        for path, record in find_records([tmp_path / "runs"])
    )
    assert sorted(found) == [SMALL, MIDDLE, LARGE]
    for share, (record, folder) in alone.items():
        assert_same_tensors(found[share][1], folder)
        assert record.budget.met == record.budget.asked == round(share * 2304)
        ours, theirs = lasting(found[share][0]), lasting(record)
        for values in (ours, theirs):
            values["config"].pop("budget"), values["config"].pop("sweep"), values["config"].pop("trainer")
        assert ours == theirs
    assert len(find_records([tmp_path / "sweeps"])) == 3


def test_a_snapshot_s_scores_are_those_of_its_moment(tmp_path):
    """The search trains on in the same tensors."""
    plan, found = quick_plan(tmp_path), []
    inputs = search_inputs(plan) | {"on_snapshot": found.append}
    stage = builder(plan.request.config.method.search)(**inputs)
    stage._leave_snapshot(plan.request.budget)
    with torch.no_grad():
        for alpha in stage.alphas.values():
            alpha.zero_()
    assert all((score == 1).all() for score in found[0].scores.values())


def test_parameters_of_a_network_s_own_by_the_name_of_slopes_stay():
    """ReZero calls its factors alpha."""
    weights = {name: torch.ones(1) for name in ("block.alpha", "block.relu.alpha", "linear.weight")}
    assert set(without_alphas(weights, ["block.relu"])) == {"block.alpha", "linear.weight"}


class Flat:
    def scores(self, shapes, seed):
        return {name: torch.rand(math.prod(shape)) for name, shape in shapes.items()}


class Undefined:
    def scores(self, shapes, seed):
        return {name: torch.full(shape, float("nan")) for name, shape in shapes.items()}


class Arrays:
    def scores(self, shapes, seed):
        return {name: list(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("search", "words"),
    [("Flat", "gives site relu1 the shape"), ("Undefined", "NaN"), ("Arrays", "method.search fails: AttributeError")],
)
def test_scores_of_one_s_own_search_are_looked_at_before_training(tmp_path, search, words):
    plan = quick_plan(tmp_path, f"method.search._target_={__name__}.{search}", method="random")
    with pytest.raises(UserError, match=words):
        check_stages(plan)


def test_continued_missed_and_repeated_budgets_equal_the_runs_on_their_own(tmp_path, alone, fits):
    """LARGE first; SMALL goes on from there; MIDDLE was passed unasked and is walked to again beside it."""
    assert_same_tensors(quick_run(tmp_path, f"budget.fraction={LARGE}")[1], alone[LARGE][1])
    record, folder = quick_run(tmp_path, f"budget.fraction={SMALL}")
    assert_same_tensors(folder, alone[SMALL][1])
    assert lasting(record) == lasting(alone[SMALL][0])
    history = next(tmp_path.glob("store/search/*/history.csv")).read_text()
    assert_same_tensors(quick_run(tmp_path, f"budget.fraction={MIDDLE}")[1], alone[MIDDLE][1])
    assert fits == ["teacher", "search", "finetune"] + 2 * ["search", "finetune"]
    assert next(tmp_path.glob("store/search/*/history.csv")).read_text() == history, "the longer walk's rows stay"
    assert not list(tmp_path.glob("store/search/*/again-*"))


def test_grid_leaves_snapshots_for_budgets_asked_later(tmp_path, alone, fits):
    quick_run(tmp_path, f"budget.fraction={SMALL}", f"budget.grid=[{LARGE},{MIDDLE}]")
    assert_same_tensors(quick_run(tmp_path, f"budget.fraction={LARGE}")[1], alone[LARGE][1])
    assert fits == ["teacher", "search", "finetune", "finetune"]


@pytest.mark.slow
def test_larger_grid_entry_is_never_left_from_where_an_interrupted_second_walk_stands(tmp_path, alone, monkeypatch):
    """A second walk, to MIDDLE, dies just above it; the command that goes on also wants LARGE, which lies behind."""
    quick_run(tmp_path, f"budget.fraction={SMALL}")
    publish = searching.keep_snapshot

    def die(plan, snapshot):
        raise RuntimeError("killed here")

    monkeypatch.setattr(searching, "keep_snapshot", die)
    again = (f"budget.fraction={MIDDLE}", "trainer.checkpoint_seconds=0")
    with pytest.raises(RuntimeError, match="killed here"):
        quick_run(tmp_path, *again)
    assert list(tmp_path.glob("store/search/*/again-*")), "the interrupted walk should have left a checkpoint"
    monkeypatch.setattr(searching, "keep_snapshot", publish)
    quick_run(tmp_path, *again, f"budget.grid=[{LARGE}]")
    _, folder = quick_run(tmp_path, f"budget.fraction={LARGE}")
    assert_same_tensors(folder, alone[LARGE][1])


def test_unreached_budget_is_projected_and_says_so(tmp_path, capfd):
    record, _ = quick_run(tmp_path, f"budget.fraction={UNREACHED}", f"budget.grid=[{SMALL}]")
    assert not record.budget.reached
    assert record.budget.met == record.budget.asked == 230
    assert record.stages["search"].epochs == 8
    assert re.search(
        r"search: 8 epochs ended at [\d,]+ ReLUs; budgets \[230\] are met by projection", capfd.readouterr().err
    )
    record, _ = quick_run(tmp_path, "budget.fraction=0.12")
    assert record.stages["search"].epochs == 8 and not record.budget.reached, "later budgets: from the same last state"
    record, _ = quick_run(tmp_path, f"budget.fraction={SMALL}")
    assert record.budget.reached


def test_a_search_that_a_callback_has_ended_is_ended_for_lower_budgets_too(tmp_path):
    """Nothing is better by 1,000 points, so that each stage ends after its second epoch."""
    stop = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "mode": "max", "monitor": "val/accuracy",
            "min_delta": 1000, "patience": 3, "strict": "false"}  # fmt: skip
    settings = ["method.finetune.epochs=0", *(f"+callbacks.stop.{key}={value}" for key, value in stop.items())]
    first, second = (quick_run(tmp_path, f"budget.fraction={share}", *settings)[0] for share in (0.2, 0.1))
    assert not first.budget.reached and not second.budget.reached
    assert second.stages["search"].epochs == first.stages["search"].epochs < 8


def test_paper_parity_undershoots_at_epoch_ends(tmp_path):
    """As in SNL's official code the count is looked at after whole epochs only and kept as it is: alpha > epsilon."""
    import torch

    record, folder = quick_run(tmp_path, f"budget.fraction={MIDDLE}", "method.search.paper_parity=true")
    budget, last = record.budget, record.stages["search"].history[-1]
    assert budget.reached and budget.met < budget.asked == 922
    assert last["relu/count"] == budget.met
    assert {site.name: last[f"relu/kept/{site.name}"] for site in record.sites} == {
        site.name: site.kept for site in record.sites
    }
    assert last["epoch"] == record.stages["search"].epochs
    plan = quick_plan(tmp_path, f"budget.fraction={MIDDLE}", "method.search.paper_parity=true")
    state = read_checkpoint(plan.search.path / "last.ckpt")["state_dict"]
    alphas = {
        key.removeprefix("network.network.").removesuffix(".alpha"): value
        for key, value in state.items()
        if key.endswith(".alpha")
    }
    mask, _ = searching.Mask.from_file(folder / "mask.safetensors")
    assert list(mask) == list(alphas)
    assert all(torch.equal(kept, alphas[site] > 0.01) for site, kept in mask.items())


def test_random_masks_are_exact_nested_and_need_no_search(tmp_path, fits):
    masks = []
    for share in (MIDDLE, SMALL):
        record, folder = quick_run(tmp_path, f"budget.fraction={share}", method="random")
        masks.append(searching.Mask.from_file(folder / "mask.safetensors")[0])
        assert masks[-1].count == record.budget.met == record.budget.asked
        assert record.method.name == "random" and record.stages["search"].epochs == 0
    assert all(bool((masks[0][site] | ~masks[1][site]).all()) for site in masks[0])
    assert fits == ["teacher", "finetune", "finetune"]
