"""The ladder: its rungs, its masks, its slopes; and runs of method=progressive from end to end."""

import math
import shutil

import pytest
import torch
from quick_runs import SMALL, assert_same_tensors, composed, copy_store, lasting, quick_plan, quick_run

from relinearize.errors import UserError
from relinearize.methods import scores
from relinearize.methods.correlated import removal_order
from relinearize.methods.progressive import Progressive, rung_counts
from relinearize.methods.stage.schedule import one_cycle
from relinearize.relu.budget import top_mask
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, to_sloped
from relinearize.runs.search import SCORES
from relinearize.runs.stages import frozen_teacher, load_into, ready

LADDER = ["method.search.rungs=3", "method.search.rung_epochs=1", "method.search.batch_size=60",
          "method.search.score_images=120", "method.search.lowest=0.1"]  # fmt: skip


@pytest.fixture(scope="module")
def store(taught):
    """A folder with a trained teacher, for runs that share it."""
    return taught()


@pytest.fixture(scope="module")
def plan(store):
    """For stages that are looked at without a run."""
    return quick_plan(store, "budget.fraction=0.1", *LADDER, method="progressive")


def test_rungs_are_in_equal_ratios_or_as_listed():
    assert rung_counts("rungs", 4, 0.026, 122_880) == [49_343, 19_814, 7_956, 3_195]
    assert rung_counts("rungs", 1, 0.5, 100) == [50]
    assert rung_counts("rungs", ["1k", 0.25], 0.026, 2304) == [1000, 576]
    assert rung_counts("rungs", [0.25, 30, 0.5, 1.0], 0.026, 100) == [50, 30, 25], (
        "fractions and counts; all ReLUs is no rung"
    )


def test_a_cycle_warms_up_and_falls_to_zero():
    assert one_cycle(0.2, 0.0, 0.1) == 0 and one_cycle(0.2, 0.05, 0.1) == pytest.approx(0.1)
    assert one_cycle(0.2, 0.1, 0.1) == 0.2 and one_cycle(0.2, 0.55, 0.1) == pytest.approx(0.1)
    assert one_cycle(0.2, 1.0, 0.1) == 0 and one_cycle(0.2, 0.0, 0.0) == 0.2


def test_one_shot_is_the_top_of_the_score_of_the_teacher(store):
    overrides = ["method.search.rungs=1", "method.search.rung_epochs=0", "budget.fraction=0.3"]
    record, folder = quick_run(store, *overrides, *LADDER[2:], method="progressive")
    plan = quick_plan(store, *overrides, *LADDER[2:], method="progressive")
    assert record.stages["search"].epochs == 0 and record.budget.met == plan.request.budget
    network = load_into(plan.request.new_network(), plan.results.weights(plan.teacher))
    loader = ready(plan, stage_of(plan, [plan.request.budget])).train_loader
    loader.seek(1_000_000)
    expected = scores.fisher(network, list(loader)[:2], seed=plan.request.seed * 10 + 1)
    found, _ = Mask.from_file(folder / "mask.safetensors")
    assert found == top_mask(expected, plan.request.budget)


def stage_of(plan, budgets, on_snapshot=None, **settings):
    network = load_into(plan.request.new_student(), plan.results.weights(plan.teacher))
    to_sloped(network.network)
    given = {"epochs": None, "batch_size": 60, "learning_rate": 0.05, "score_images": 120, "score": scores.fisher}
    given |= settings
    given.pop("epochs")
    teacher = frozen_teacher(plan, "search")
    return Progressive(network, teacher, budgets=budgets, on_snapshot=on_snapshot, **given)


def test_one_walk_serves_every_budget_and_masks_are_those_of_single_walks(store, taught):
    grid = "budget.grid=[0.6,0.3,0.12]"
    record, _ = quick_run(store, *LADDER, "budget.fraction=0.12", grid, method="progressive")
    assert record.stages["search"].epochs == 2, "rungs at 0.46 and 0.22; the last, at 0.1, is below the budget"
    plan = quick_plan(store, *LADDER, "budget.fraction=0.6", grid, method="progressive")
    assert [plan.snapshot(budget).complete for budget in plan.request.grid] == [True] * 3
    single, single_folder = quick_run(taught(), *LADDER, "budget.fraction=0.3", method="progressive")
    shared, shared_folder = quick_run(store, *LADDER, "budget.fraction=0.3", grid, method="progressive")
    assert single.stages["search"].epochs == shared.stages["search"].epochs == 1
    masks = [Mask.from_file(one / "mask.safetensors")[0] for one in (single_folder, shared_folder)]
    assert masks[0] == masks[1] and masks[0].count == shared.budget.met


def test_a_budget_above_the_first_rung_is_served_after_a_smaller_one(taught):
    output = taught()
    quick_run(output, *LADDER, "budget.fraction=0.25", method="progressive")
    record, folder = quick_run(output, *LADDER, "budget.fraction=0.7", method="progressive")
    assert record.stages["search"].epochs == 0 and Mask.from_file(folder / "mask.safetensors")[0].count == 1613
    assert not list(output.glob("store/search/*/again-*"))


def test_removed_positions_become_linear_in_a_part_of_the_rung(plan):
    stage = stage_of(plan, [plan.request.budget])
    stage.former = {name: torch.ones_like(kept) for name, kept in stage.kept.items()}
    stage.kept = {name: torch.rand(kept.shape) < 0.5 for name, kept in stage.kept.items()}
    for progress in (0.0, 0.25, 1.0):
        stage.set_slopes(progress)
        linear = 1 - (1 - math.cos(math.pi * progress)) / 2
        for name, alpha in stage.alphas.items():
            expected = torch.where(stage.kept[name], torch.ones(()), torch.tensor(linear))
            torch.testing.assert_close(alpha.detach(), expected, rtol=0, atol=1e-6)
    assert not any(alpha.requires_grad for alpha in stage.alphas.values())


def test_rungs_have_a_cycle_each_and_exchanges_a_constant_rate(plan):
    stage = stage_of(plan, [200], rungs=2, lowest=0.1, rung_epochs=2, exchanges=1, warmup=0.0)
    assert stage.epochs == 2 * 3 and stage.epochs_of_rung == 3
    assert [round(stage.rate(epochs), 4) for epochs in (0, 1, 2, 2.9, 3, 4)] == [0.05, 0.025, 0.005, 0.005, 0.05, 0.025]


def test_hysteresis_raises_what_is_kept(plan):
    plain, raised = (ready(plan, stage_of(plan, [200], hysteresis=one)) for one in (0.0, 0.5))
    for stage in (plain, raised):
        stage.kept = {name: torch.zeros_like(kept) for name, kept in stage.kept.items()}
        stage.kept[next(iter(stage.kept))].fill_(True)
    first, second = plain.position_scores(1), raised.position_scores(1)
    for number, name in enumerate(first):
        torch.testing.assert_close(second[name], first[name] * (1.5 if number == 0 else 1.0))


@pytest.mark.parametrize("selection", ["correlated", "correlated_within_sites"])
def test_correlated_selection_meets_the_budget_and_within_sites_keeps_the_counts(plan, selection):
    stage = ready(plan, stage_of(plan, [200], selection=selection))
    diagonal = ready(plan, stage_of(plan, [200]))
    found, top = (top_mask(one.position_scores(200), 200) for one in (stage, diagonal))
    assert found.count == 200 and found != top
    assert (found.counts == top.counts) == (selection == "correlated_within_sites")
    with pytest.raises(UserError, match=r"trainer.devices=1"):
        stage.check_devices(2)


@pytest.mark.slow
def test_exchanges_keep_the_count_and_never_end_worse(store):
    record, folder = quick_run(
        store, *LADDER, "method.search.rungs=[0.4]", "method.search.exchanges=2", "method.search.exchange_share=0.1",
        "budget.fraction=0.4", method="progressive",
    )  # fmt: skip
    mask, metadata = Mask.from_file(folder / "mask.safetensors")
    assert mask.count == metadata.asked == record.budget.met
    assert record.stages["search"].epochs == 3
    divergences = [
        row["exchange/divergence"] for row in record.stages["search"].history if "exchange/divergence" in row
    ]
    assert len(divergences) == 3 and all(one > 0 for one in divergences)


def test_an_exchange_that_does_not_help_is_undone(plan):
    stage = ready(plan, stage_of(plan, [200], rungs=1, exchanges=2, rung_epochs=1, exchange_share=0.2))
    stage.kept = {name: torch.rand(kept.shape) < 0.5 for name, kept in stage.kept.items()}
    stage.set_slopes(1.0)
    before = dict(stage.kept)
    first = stage.settle_exchange()
    stage.try_exchange()
    exchanged = sum(int((before[name] != kept).sum()) for name, kept in stage.kept.items())
    count = sum(int(kept.sum()) for kept in before.values())
    assert exchanged == 2 * round(0.2 * count) and stage.count == count
    stage.accepted["divergence"] = first / 1e9
    weights = {name: value.clone() for name, value in stage.network.state_dict().items()}
    with torch.no_grad():
        for value in stage.network.parameters():
            value.add_(0.1)
    stage.settle_exchange()
    assert all(kept.equal(before[name]) for name, kept in stage.kept.items())
    assert all(value.equal(weights[name]) for name, value in stage.network.state_dict().items())
    stage.try_exchange()
    again = sum(int((before[name] != kept).sum()) for name, kept in stage.kept.items())
    assert again == 2 * round(0.1 * count), "the same weights and mask would lead to the same exchange"


def test_budgets_below_a_finished_walk_have_its_history_and_those_of_a_stopped_one_are_not_reached(plan):
    left = []
    stage = ready(plan, stage_of(plan, [200, 100], left.append, rungs=[0.5, 0.2], rung_epochs=1))
    stage.history = [{"epoch": 0.0}]  # of two epochs
    stage.finish()
    assert [(len(one.history), one.reached) for one in left] == [(2, False), (2, False)]
    stage = ready(plan, stage_of(plan, [200, 100], left.append, rungs=[0.5, 0.2], rung_epochs=1))
    stage.history = [{"epoch": 0.0}, {"epoch": 1.0}]
    stage.finish()
    assert [(len(one.history), one.reached) for one in left[2:]] == [(3, True), (3, True)]


def test_kept_positions_stay_ordered_among_many():
    squares = torch.linspace(1e-6, 1, 300_000)
    order = removal_order(squares.sqrt().expand(2, -1), 299_000, 0.5)
    assert (order[1000:].diff() > 0).all() and order[1000] > order[:1000].max()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rungs", 0, "=0: must be an integer >= 1, or a list"),
        ("rungs", "four", "=four: must be an integer >= 1, or a list"),
        ("rungs", [0.5, "some"], ": some is not a number of ReLUs"),
        ("lowest", 1.5, "=1.5: must be a number > 0 and < 1"),
        ("rung_epochs", -1, "=-1: must be an integer >= 0"),
        ("rung_epochs", 1.5, "=1.5: must be an integer"),
        ("continuation", 2, "=2: must be a number >= 0 and <= 1"),
        ("score_images", 0, "=0: must be an integer >= 1"),
        ("hysteresis", "much", "=much: must be a number >= 0"),
        ("score", "fisher", "=fisher is no function; give a file of conf/score"),
        ("learning_rate", "fast", "=fast: must be a number >= 0$"),
        ("selection", "best", "=best is unknown"),
        ("warmup", 1, "=1: must be a number >= 0 and < 1"),
    ],
)
def test_settings_of_the_search_that_cannot_be_are_refused(plan, name, value, message):
    with pytest.raises(UserError, match=f"^method.search.{name}{message}"):
        stage_of(plan, [200], **{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method.search.rungs=[0.5,9k]"], r"^method.search.rungs: 9k is more than the 2,304 ReLUs"),
        (
            ["score=relupruner", "score.decay=high"],
            r"^method.search.score fails on two images: decay=high: must be",
        ),
        (["score.exact=1x"], r"^method.search.score fails on two images: exact=1x is unknown"),
        (["method.finetune.weight_decay=-1"], r"^method.finetune.weight_decay=-1: must be a number >= 0$"),
        (["method.finetune.epochs=1.5"], r"^method.finetune.epochs=1.5: must be an integer >= 0$"),
        (["method.finetune.temperature=0"], r"^method.finetune.temperature=0: must be a number > 0$"),
        (["method.finetune.average_decay=no"], r"^method.finetune.average_decay=no: must be a number > 0 and < 1$"),
        (["method.finetune.standardise=no"], r"^method.finetune.standardise=no is unknown; valid: True, False$"),
        (["method.finetune.norm_images=0"], r"^method.finetune.norm_images=0: must be an integer >= 2"),
        (["method.search.selection=correlated", "score=snip"], "has its own measure of damage; give score=fisher"),
        (
            ["method.search.selection=correlated", "score.exact=true"],
            r"has its own measure .*score=fisher \(exact=false",
        ),
        (["method.search.exchanges=1", "dataset.holdout=0", "method.teacher.selection=last"], "dataset.holdout"),
        (["total_epochs=0"], "total_epochs=0: must be an integer >= 1"),
        (["method.finetune.average_decay=1"], "method.finetune.average_decay=1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_the_teacher_trains(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        quick_run(tmp_path, *settings, method="progressive")
    assert not list(tmp_path.glob("store/teacher/*/weights*"))


def test_total_epochs_are_what_search_and_fine_tuning_share(store):
    record, _ = quick_run(store, *LADDER, "budget.fraction=0.12", "total_epochs=5", method="progressive")
    assert (record.stages["search"].epochs, record.stages["finetune"].epochs) == (2, 3)
    keys = {
        quick_plan(store, *LADDER, "budget.fraction=0.12", *more, method="progressive").finetune.key
        for more in ([], ["total_epochs=5"], ["total_epochs=6"])
    }
    assert len(keys) == 3


def test_total_epochs_that_leave_nothing_are_refused_before_the_teacher_trains(tmp_path):
    for method, budget, needed in (("progressive", 0.12, 2), ("senet", 0.2, 5)):
        ladder = LADDER if method == "progressive" else []
        settings = [*ladder, f"budget.fraction={budget}", f"total_epochs={needed}"]
        with pytest.raises(UserError, match=rf"total_epochs={needed}: .* give at least {needed + 1}"):
            quick_run(tmp_path, *settings, method=method)
    assert not list(tmp_path.glob("store/teacher/*/weights*"))


def test_total_epochs_that_an_early_end_decides_are_refused_after_it_and_nothing_is_lost(tmp_path, alone):
    copy_store(alone[SMALL][1], tmp_path)
    with pytest.raises(UserError, match=r"total_epochs=3: sensitivity and search take [4-9] or more"):
        quick_run(tmp_path, f"budget.fraction={SMALL}", "total_epochs=3")
    record, _ = quick_run(tmp_path, f"budget.fraction={SMALL}", "total_epochs=10")
    assert record.stages["search"].reused
    assert record.stages["finetune"].epochs == 10 - record.stages["search"].epochs


def test_a_fine_tuning_of_no_epochs_stays_one(store):
    record, _ = quick_run(
        store, *LADDER, "budget.fraction=0.12", "method.finetune.epochs=0", "total_epochs=5", method="progressive"
    )
    assert record.stages["finetune"].epochs == 0


def test_exchanged_masks_have_scores_for_layer_culling(store):
    settings = [*LADDER, "method.search.rungs=[0.4]", "method.search.exchanges=1", "budget.fraction=0.4"]
    culled, _ = quick_run(store, *settings, "allocation=sites", "allocation.live=4", method="progressive")
    plan = quick_plan(store, *settings, method="progressive")
    found = plan.results.weights(plan.snapshot(), SCORES)
    kept, _ = plan.results.mask(plan.snapshot())
    assert top_mask({name: found[name] for name in kept}, plan.request.budget) == kept
    assert sum(site.kept > 0 for site in culled.sites) == 4 and culled.budget.met == kept.count


@pytest.mark.slow
def test_streamed_images_give_the_masks_of_resident_ones(store, tmp_path):
    settings = [*LADDER, "budget.fraction=0.12"]
    _, resident = quick_run(store, *settings, method="progressive")
    copy_store(resident, tmp_path)
    for made in ("search", "finetune"):
        shutil.rmtree(tmp_path / "store" / made)
    _, streamed = quick_run(tmp_path, *settings, "dataset.resident=false", "dataset.workers=1", method="progressive")
    assert_same_tensors(streamed, resident)


def test_the_history_ends_at_the_budget(store):
    record, _ = quick_run(store, *LADDER, "budget.fraction=0.12", method="progressive")
    last = record.stages["search"].history[-1]
    assert last["relu/count"] == record.budget.met
    assert [last[f"relu/kept/{site.name}"] for site in record.sites] == [site.kept for site in record.sites]


def test_settings_of_a_score_and_the_score_are_in_the_key(tmp_path):
    def key(*overrides):
        return quick_plan(tmp_path, *overrides, method="progressive").search.key

    assert key("score.exact=false") == key() != key("score.exact=true")
    assert key("score=snip") != key()
    assert composed(tmp_path, "score=snip", method="snl").method.search.get("score") is None


@pytest.mark.slow
def test_run_in_pieces_ends_as_the_undisturbed(store, tmp_path, run_in_pieces):
    """Ladder, exchanges and averaged weights, stopped within rungs, within exchanges and within the retraining."""
    settings = [*LADDER, "method.search.exchanges=1", "budget.fraction=0.3", "method.finetune.average_decay=0.9"]
    record, whole = quick_run(store, *settings, method="progressive")
    copy_store(whole, tmp_path)
    for made in ("search", "finetune"):
        shutil.rmtree(tmp_path / "store" / made)
    again, folder = run_in_pieces(4, tmp_path, *settings, method="progressive")
    assert_same_tensors(folder, whole)
    assert lasting(again)["accuracy"] == lasting(record)["accuracy"]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda network, batches: {}, "TypeError: .* unexpected keyword argument 'teacher'"),
        (lambda network, batches, teacher, seed: {}, r"gives site relu1 the shape None; it has \(8, 8, 8\)"),
        (lambda network, batches, teacher, seed: None, "AttributeError"),
    ],
)
def test_a_score_of_ones_own_that_cannot_work_is_found_by_two_images(plan, score, message):
    stage = stage_of(plan, [200], score=score)
    with pytest.raises(UserError, match=message):
        stage.rehearse(torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))


def test_networks_without_slopes_are_refused():
    network = linearize(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), (2,))
    with pytest.raises(ValueError, match="SlopedReLU"):
        Progressive(network, network, budgets=[1], on_snapshot=None, score=scores.fisher, batch_size=2, learning_rate=1)
