"""ReLUPruner: its schedule, score and masks by hand; runs of method=relupruner from end to end."""

import pytest
import torch
from quick_runs import assert_same_in_pieces, copy_store, quick_plan, quick_run

from relinearize.errors import UserError
from relinearize.methods.baselines.relupruner import ReLUPruner, kept_ratio
from relinearize.methods.scores import ReLUPrunerMeans, relupruner
from relinearize.relu.budget import kept_first, top_mask
from relinearize.relu.mask import Mask
from relinearize.runs.pipeline import check_stages
from relinearize.runs.search import SCORES, budget_stage
from relinearize.runs.stages import ready

SEARCH = ["method.search.epochs=4", "method.search.batch_size=60", "method.search.learning_rate=0.02",
          "method.search.mask_every=1", "method.search.ramp_start=0.2"]  # fmt: skip
SHARE = "budget.fraction=0.2"
BUDGET = 461  # of 2,304


@pytest.fixture(scope="module")
def finished(senet, tmp_path_factory):
    """(record, folder) of a run in a store of its own, with the teacher of others."""
    folder = tmp_path_factory.mktemp("relupruner")
    copy_store(senet[1], folder)
    return quick_run(folder, SHARE, *SEARCH, method="relupruner")


def test_kept_ratios_are_the_released_codes():
    """150 epochs, a tenth of the ReLUs: all of them in the first 5 epochs, a tenth from epoch 92 on."""
    assert [kept_ratio(0.1, epoch, 5, 92) for epoch in (0, 4, 92, 149)] == [1.0, 1.0, 0.1, 0.1]
    ratios = [kept_ratio(0.1, epoch, 5, 92) for epoch in (5, 20, 40, 60, 80, 88)]
    assert [round(ratio, 2) for ratio in ratios] == [1.0, 0.99, 0.86, 0.55, 0.19, 0.11]
    by_shares = [kept_ratio(0.1, epoch, 0.0333 * 150, 0.6133 * 150) for epoch in (5, 20, 40, 60, 80, 88)]
    assert by_shares == pytest.approx(ratios, abs=1e-3)


def means_of(names=("a", "b", "c"), decay=0.5, layer_weights=True, second_order=False):
    return ReLUPrunerMeans("", names, decay, layer_weights, second_order)


def test_score_of_two_batches_by_hand():
    """Two images, two positions. |g z| is summed loss by summed loss, so that batches of any size are alike."""
    z, g = torch.tensor([[-1.0, 2.0], [-3.0, -4.0]]), torch.tensor([[0.5, 0.5], [0.25, -0.5]])
    means = means_of(["a"], layer_weights=False)
    means.add("a", z, g)
    first = [(0.5 + 0.75) / 2 * 2 * 1.0, (1.0 + 2.0) / 2 * 2 * 0.5]
    assert means.scores()["a"].tolist() == pytest.approx(first)
    means.add("a", -z, g)  # P(z < 0) is now 0 and 1/2, of both batches 1/2 and 1/2
    second = [1.25 * 0.5, 3.0 * 0.5]
    assert means.scores()["a"].tolist() == pytest.approx([(first[0] + second[0]) / 2, (first[1] + second[1]) / 2])


def test_shares_of_negatives_are_those_of_the_last_ten_batches():
    means = means_of(["a"], decay=0.0)
    for sign in [-1.0] * 5 + [1.0] * 8:
        means.add("a", torch.full((4, 1), sign), torch.ones(4, 1))
    assert float(means.scores()["a"]) == pytest.approx(4 * 2 / 10)  # 2 of the last 10 batches were negative


def test_second_order_terms_by_hand():
    z, g = torch.tensor([[-2.0], [-4.0]]), torch.tensor([[0.5], [0.25]])
    for second_order, expected in (
        (True, 2 + (4 + 4) / 4),
        (1, 2 + (4 + 4) / 4),
        ("mean_loss", 2 + 10 * (0.25 + 0.0625) / 2),
    ):
        means = means_of(["a"], second_order=second_order)
        means.add("a", z, g)
        assert float(means.scores()["a"]) == pytest.approx(expected)


def test_weights_of_layers_by_hand_and_between_a_tenth_and_eleven_tenths():
    means = means_of()
    for name, size in {"c": 3.0, "b": 1.0, "a": 2.0}.items():  # as a backward pass comes to them
        means.add(name, -torch.ones(2, 4), torch.full((2, 4), size))
    raw = {"a": 4.0 * 2.0, "b": 2.0 * 1.0 * 1.1, "c": 6.0 * 3.0 * 1.2}  # norm of an image, root of the mean square
    weights = means.weights()
    assert list(weights) == ["a", "b", "c"]
    assert weights["b"] == pytest.approx(0.1) and weights["c"] == pytest.approx(1.1)
    assert weights["a"] == pytest.approx((raw["a"] - raw["b"]) / (raw["c"] - raw["b"]) + 0.1, rel=1e-5)


def test_scores_that_put_the_kept_first():
    scores = {"a": torch.tensor([3.0, 1e-9, 2e-9]), "b": torch.tensor([0.0])}
    kept = {"a": torch.tensor([False, True, True]), "b": torch.tensor([False])}
    assert top_mask(kept_first(scores, kept), 2) == Mask(kept)
    assert top_mask(kept_first(scores, kept), 1)["a"].tolist() == [False, False, True], "their order stays"
    same = {"a": torch.zeros(3), "b": torch.zeros(1)}
    assert top_mask(kept_first(same, kept), 2) == Mask(kept)


def test_a_run_meets_its_budget_and_its_rows_show_the_way(finished):
    record, folder = finished
    assert record.budget.met == record.budget.asked == BUDGET and record.budget.reached
    assert (record.method.search, record.method.finetune) == ("ReLUPruner", "PRAMDistill")
    counts = [row["relu/count"] for row in record.stages["search"].history]
    assert counts[0] == 2304 and counts[-1] == BUDGET and counts == sorted(counts, reverse=True)
    assert Mask.from_file(folder / "mask.safetensors")[0].count == BUDGET
    last = record.stages["search"].history[-1]
    assert [last[f"relu/kept/{site.name}"] for site in record.sites] == [site.kept for site in record.sites]


def test_budgets_are_met_exactly_and_each_has_a_search_of_its_own(finished, tmp_path, fits):
    copy_store(finished[1], tmp_path)
    keys = {finished[0].stages["search"].key}
    for relus in (1, 1000):
        settings = [*SEARCH, "method.search.epochs=2", "method.finetune.epochs=0"]
        record, _ = quick_run(tmp_path, f"budget.relus={relus}", *settings, method="relupruner")
        assert record.budget.met == relus
        keys.add(record.stages["search"].key)
    assert len(keys) == 3 and fits.count("search") == 2 and "teacher" not in fits


def test_a_search_that_ends_too_early_is_projected_and_says_so(finished, tmp_path, capsys):
    copy_store(finished[1], tmp_path)
    settings = [*SEARCH, "method.search.mask_every=1000", "method.finetune.epochs=0"]
    record, _ = quick_run(tmp_path, SHARE, *settings, method="relupruner")
    assert record.budget.met == BUDGET and not record.budget.reached
    assert "ended before it came down to 461 ReLUs" in capsys.readouterr().err


def test_masks_are_chosen_once_a_step_of_accumulated_gradients(tmp_path, monkeypatch):
    chosen, real = [], ReLUPruner.choose
    monkeypatch.setattr(
        ReLUPruner, "choose", lambda search, count: chosen.append(search.global_step) or real(search, count)
    )
    settings = [*SEARCH, "method.search.batch_size=30", "method.finetune.epochs=0"]  # six batches an epoch
    quick_run(tmp_path, SHARE, *settings, "+trainer.lightning.accumulate_grad_batches=2", method="relupruner")
    assert chosen == [*range(3, 9), 10], "every second step after the ramp"


def test_a_search_that_a_callback_ends_keeps_its_budget(finished, tmp_path):
    """EarlyStopping ends it after two of four epochs, in the middle of the ramp."""
    copy_store(finished[1], tmp_path)
    stop = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "mode": "max", "monitor": "val/accuracy",
            "min_delta": 1000, "patience": 1}  # fmt: skip
    settings = [f"+callbacks.stop.{key}={value}" for key, value in stop.items()]
    record, _ = quick_run(tmp_path, SHARE, *SEARCH, *settings, "method.finetune.epochs=0", method="relupruner")
    assert record.stages["search"].epochs == 2
    assert record.budget.met == BUDGET and not record.budget.reached


@pytest.mark.parametrize(("second_order", "batches"), [(False, 1), (True, 1), (True, 4)])
def test_scores_of_a_step_are_those_of_the_function_by_the_same_gradients(finished, monkeypatch, second_order, batches):
    """A step's hooks see what autograd gives for the sites: here with a loss of cross-entropy alone.

    Where a step has several batches, Lightning divides the loss by their number.
    """
    monkeypatch.setattr(ReLUPruner, "batches_of_step", batches)
    plan = quick_plan(finished[1].parents[1], SHARE, *SEARCH, "method.search.distillation_weight=0",
                      f"method.search.second_order={second_order}",
                      "method.search.cross_entropy_weight=1", method="relupruner")  # fmt: skip
    stage = ready(plan, budget_stage(plan, {}))
    images, labels = next(iter(stage.train_loader))
    stage.network.eval()
    loss, _ = stage.loss(images, labels)
    (loss / batches).backward()
    expected = relupruner(stage.network, [(images, labels)], second_order=second_order)
    for name, score in stage.means.scores().items():
        torch.testing.assert_close(score, expected[name], rtol=1e-4, atol=1e-8)


@pytest.mark.slow
def test_a_student_from_scratch_does_not_start_from_the_teacher(finished):
    folder = finished[1].parents[1]
    plans = [quick_plan(folder, SHARE, *SEARCH, f"method.search.start={start}", method="relupruner")
             for start in ("teacher", "scratch")]  # fmt: skip
    from_teacher, fresh = (budget_stage(plan, {}).weights() for plan in plans)
    teacher, initial = plans[0].results.weights(plans[0].teacher), plans[1].request.new_network().network.state_dict()
    assert all(value.equal(teacher[name]) for name, value in from_teacher.items())
    for name in (name for name, value in fresh.items() if value.dim() > 1):  # not those that every network starts with
        assert not fresh[name].equal(teacher[name]) and not fresh[name].equal(initial[name]), "the teacher's own start"
        assert fresh[name].std().item() == pytest.approx(initial[name].std().item(), rel=0.5)


def test_layer_culling_chooses_by_its_scores(finished, tmp_path):
    copy_store(finished[1], tmp_path)
    sites = ["allocation=sites", "allocation.live=4", "method.finetune.epochs=0"]
    record, _ = quick_run(tmp_path, SHARE, *SEARCH, *sites, method="relupruner")
    assert sum(site.kept > 0 for site in record.sites) == 4 and record.budget.met == BUDGET
    assert record.stages["search"].reused
    plan = quick_plan(tmp_path, SHARE, *SEARCH, method="relupruner")
    scores, (mask, _) = plan.results.weights(plan.snapshot(), SCORES), plan.results.mask(plan.snapshot())
    assert top_mask({name: scores[name] for name in mask}, BUDGET) == mask


def test_total_epochs_and_retraining_go_with_it(finished, tmp_path):
    copy_store(finished[1], tmp_path)
    settings = [*SEARCH, "method/finetune=retrain", "total_epochs=6"]
    record, _ = quick_run(tmp_path, SHARE, *settings, method="relupruner")
    assert (record.stages["search"].epochs, record.stages["finetune"].epochs) == (4, 2)
    with pytest.raises(UserError, match=r"total_epochs=4: .* give at least 5"):
        quick_run(tmp_path, SHARE, *SEARCH, "total_epochs=4", method="relupruner")


@pytest.mark.slow
def test_run_in_pieces_ends_as_the_undisturbed(finished, tmp_path, run_in_pieces):
    assert_same_in_pieces(finished, tmp_path, run_in_pieces, 3, SHARE, *SEARCH, method="relupruner")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=0", "method.search.epochs=0: must be an integer >= 1"),
        ("ramp_start=1", r"^method.search.ramp_start=1: must be a number >= 0 and < 1$"),
        ("ramp_end=0.01", r"^method.search.ramp_end=0.01: must be a number > 0.0333 and <= 1$"),
        ("mask_every=0", r"^method.search.mask_every=0: must be an integer >= 1$"),
        ("decay=1", r"^method.search.decay=1: must be a number >= 0 and < 1$"),
        ("layer_weights=some", r"^method.search.layer_weights=some is unknown; valid: True, False$"),
        ("second_order=third", r"^method.search.second_order=third is unknown"),
        ("start=zero", r"^method.search.start=zero is unknown; valid: teacher, scratch$"),
        ("temperature=0", r"^method.search.temperature=0: must be a number > 0$"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        check_stages(quick_plan(tmp_path, SHARE, f"method.search.{setting}", method="relupruner"))
