"""Block coordinate descent: its blocks and swaps on a toy accuracy; runs of method=bcd from end to end."""

import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from quick_runs import SEARCH as SNL
from quick_runs import assert_same_in_pieces, assert_same_tensors, composed, copy_store, quick_plan, quick_run
from torch import nn

from relinearize.errors import UserError
from relinearize.methods.baselines.bcd import BCD
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize
from relinearize.runs import search as searches
from relinearize.runs.pipeline import check_stages

# Of both searches' settings, SNL's are those of the first one.
SEARCH = ["method.search.block=0.25", "method.search.draws=3", "method.search.block_epochs=1",
          "method.search.accuracy_images=120", "method.search.batch_size=60",
          *(one.replace("method.search", "method.search.first") for one in SNL)]  # fmt: skip
SHARE = "budget.fraction=0.3"
BUDGET = 691  # of 2,304
FIRST = 1036


@pytest.fixture(scope="module")
def finished(taught):
    """(record, folder) of a run with searches of its own and the teacher of others."""
    return quick_run(taught(), SHARE, *SEARCH, method="bcd")


def toy(kept=12, budget=6, accuracy=None, **settings):
    """A search over 20 positions of one site, of which the first `kept` are kept; scores are the places.

    accuracy: what stands for the accuracy under a mask, given as the places that are kept.
    """
    network = linearize(nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 2)), (3,))
    places = torch.arange(20)
    Mask({"1": places < kept}).apply(network)
    given = {"batch_size": 2, "learning_rate": 1.0, "block": 2, "draws": 50, "block_epochs": 2} | settings
    stage = BCD(network, network, budget=budget, first={"1": places.float()}, **given)
    if accuracy is not None:
        stage.train_accuracy = lambda mask: accuracy(places[mask["1"]].tolist())
    return stage


def places(mask):
    return torch.nonzero(mask["1"]).flatten().tolist()


def test_blocks_and_epochs_are_counted_from_the_first_mask():
    assert (toy().rounds, toy().epochs) == (3, 2 * 4), "one training before the first block and one after each at most"
    assert (toy(block=4).rounds, toy(block=0.5).block, toy(block=0.5).rounds) == (2, 3, 2)
    assert toy(block=1.0).block == toy(block=1).block == 1, "keys do not tell them apart"
    assert (toy(swaps=2).rounds, toy(kept=6).rounds, toy(kept=6).epochs) == (5, 0, 2)
    assert (toy().fewest_epochs, toy(train="always").fewest_epochs) == (2, 8)


def test_the_first_block_within_the_tolerance_goes():
    """Positions 0 to 3 cost nothing, others a point each."""
    stage = toy(accuracy=lambda kept: 90.0 - sum(place not in kept for place in range(4, 12)), tolerance=0.3)
    assert stage.remove() and stage.mask.count == 10
    assert set(range(4, 12)) <= set(places(stage.mask))
    assert Mask.of(stage.network) == stage.mask


def test_else_the_best_of_the_draws_goes_and_a_training_is_due():
    seen = []

    def accuracy(kept):
        seen.append(90.0 - sum(12 - place for place in range(12) if place not in kept))
        return seen[-1]

    stage = toy(accuracy=accuracy, draws=6)
    assert not stage.remove()
    assert len(seen) == 7 and accuracy(places(stage.mask)) == max(seen[1:7])
    stage = toy(accuracy=accuracy)
    assert not stage.rounds_until_training() and stage.round == 1
    free = toy(accuracy=lambda kept: 90.0)
    assert free.rounds_until_training() and free.round == 3 and free.mask.count == 6
    always = toy(accuracy=lambda kept: 90.0, train="always")
    assert [always.rounds_until_training() for _ in range(4)] == [False, False, False, True]
    assert always.mask.count == 6


def test_last_blocks_are_smaller_so_that_the_budget_is_met_exactly():
    for budget in (1, 5, 6, 7, 11, 12):
        stage = toy(budget=budget, block=4, accuracy=lambda kept: 90.0)
        assert stage.rounds_until_training() and stage.mask.count == budget


def test_blocks_are_drawn_from_the_least_scores():
    stage = toy(candidates=0.25, block=2)
    blocks = [set(range(12)) - set(places(stage.drawn(draw, removed=2))) for draw in range(30)]
    assert {tuple(sorted(block)) for block in blocks} == {(0, 1), (0, 2), (1, 2)}
    exchanged = [set(places(stage.drawn(draw, removed=2, restored=2))) - set(range(12)) for draw in range(30)]
    assert set().union(*exchanged) == {18, 19}, "a quarter of the 8 linear ones, those of largest score"


def test_draws_are_functions_of_seed_round_and_draw():
    stage, other = toy(), toy()
    assert stage.drawn(3, removed=4) == other.drawn(3, removed=4) != stage.drawn(4, removed=4)
    other.round = 1
    assert stage.drawn(3, removed=4) != other.drawn(3, removed=4)


def test_swaps_are_done_only_where_they_help():
    """The last places are worth most: swaps climb to them, and never below."""
    values = []

    def accuracy(kept):
        return float(sum(kept))

    stage = toy(kept=6, swaps=30, accuracy=accuracy)
    for _ in range(30):
        assert stage.swap() and stage.mask.count == 6
        stage.round += 1
        values.append(accuracy(places(stage.mask)))
    assert values == sorted(values) and values[-1] > 90, "of at most 99"
    still = toy(kept=6, swaps=1, accuracy=lambda kept: 90.0)
    assert still.rounds_until_training() and places(still.mask) == list(range(6))


def test_rates_begin_again_with_each_training():
    groups = [{"lr": 0.0}]
    stage = toy(schedule="cosine", learning_rate=0.1)
    stage.optimizers = lambda: SimpleNamespace(param_groups=groups)
    rates = []
    for epoch in range(4):
        stage.set_learning_rate(epoch)
        rates.append(groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.05, 0.1, 0.05])


def test_a_run_goes_from_snls_mask_to_its_budget(finished):
    record, folder = finished
    assert record.budget.met == record.budget.asked == BUDGET and record.budget.reached
    assert set(record.stages) == {"teacher", "first", "search", "finetune"}
    history = record.stages["search"].history
    assert history[0]["relu/count"] == FIRST and 1 <= record.stages["search"].epochs <= 5
    plan = quick_plan(folder.parents[1], SHARE, *SEARCH, method="bcd")
    first, _ = plan.first.results.mask(plan.first.snapshot())
    found, _ = Mask.from_file(folder / "mask.safetensors")
    assert first.count == FIRST and all(not (kept & ~first[name]).any() for name, kept in found.items())
    assert record.stages["first"].key == plan.first.search.key


def test_its_first_search_is_snls_own(finished, tmp_path, fits):
    """At the larger budget: found in the store by a run of SNL, and shared by all budgets of a grid."""
    copy_store(finished[1], tmp_path)
    quick_run(tmp_path, f"budget.relus={FIRST}", "method.finetune.epochs=0", method="snl")
    assert fits == ["finetune"]
    plan = quick_plan(tmp_path, SHARE, *SEARCH, "budget.grid=[0.3,0.2]", method="bcd")
    assert plan.first.request.grid == [FIRST, round(1.5 * 461)]
    other = quick_plan(tmp_path, SHARE, *SEARCH, "method.search.first.lasso=1", method="bcd")
    assert other.search.key != plan.search.key and other.teacher.key == plan.teacher.key


def test_a_first_search_that_leaves_no_scores_is_named(finished, tmp_path, monkeypatch):
    copy_store(finished[1], tmp_path)
    words, keep = [SHARE, *SEARCH[:5], "method/search@method.search.first=random"], searches.keep_snapshot
    with monkeypatch.context() as patched:  # a search of one's own
        patched.setattr(searches, "keep_snapshot", lambda plan, found: keep(plan, replace(found, scores=None)))
        with pytest.raises(UserError, match=r"^method.search starts from .*leaves none .*search.first=snl$"):
            quick_run(tmp_path, *words, method="bcd")
    with pytest.raises(UserError, match="leaves none"):
        check_stages(quick_plan(tmp_path, *words, method="bcd"))


@pytest.mark.parametrize("first", ["deepreduce", "filter_pruning"])
def test_first_searches_that_prune_by_layers_or_channels_are_refused(tmp_path, first):
    with pytest.raises(UserError, match="first prunes whole layers or channels; give one that does not"):
        check_stages(quick_plan(tmp_path, SHARE, f"method/search@method.search.first={first}", method="bcd"))


@pytest.mark.slow
def test_total_epochs_layer_culling_and_other_first_searches_go_with_it(finished, tmp_path):
    copy_store(finished[1], tmp_path)
    settings = ["method/search@method.search.first=random", *SEARCH[:5], "method.search.train=always",
                "method.search.swaps=1", "method/finetune=retrain"]  # fmt: skip
    record, _ = quick_run(tmp_path, SHARE, *settings, "total_epochs=8", method="bcd")
    assert (record.stages["search"].epochs, record.stages["finetune"].epochs) == (6, 2)
    sites = ["allocation=sites", "allocation.live=4", "method.finetune.epochs=0"]
    culled, _ = quick_run(tmp_path, SHARE, *settings, *sites, method="bcd")
    assert sum(site.kept > 0 for site in culled.sites) == 4 and culled.budget.met == BUDGET
    with pytest.raises(UserError, match=r"total_epochs=6: .* give at least 7"):
        quick_run(tmp_path, SHARE, *settings, "total_epochs=6", method="bcd")


def test_killed_when_it_is_done_it_does_not_train_on(finished, tmp_path, monkeypatch):
    record, whole = finished
    copy_store(whole, tmp_path)
    for folder in [*tmp_path.glob("store/search/bcd*"), tmp_path / "store" / "finetune"]:
        shutil.rmtree(folder)

    def killed(*arguments):
        raise SystemExit(75)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(searches, "keep_snapshot", killed)
        quick_run(tmp_path, SHARE, *SEARCH, method="bcd")
    again, folder = quick_run(tmp_path, SHARE, *SEARCH, method="bcd")
    assert_same_tensors(folder, whole)
    assert again.stages["search"].epochs == record.stages["search"].epochs


def test_a_replacement_is_none_of_the_first_search_s(tmp_path):
    """1.5 times 70 % are all ReLUs: the first search keeps them, this one does not."""
    plan = quick_plan(tmp_path, "budget.fraction=0.7", "replacement=quadratic", *SEARCH, method="bcd")
    assert plan.first.request.budget == plan.request.total and plan.first.request.replacement is None


def test_the_first_search_ends_at_the_default_where_the_config_does_not_say(tmp_path):
    plan = quick_plan(tmp_path, SHARE, *SEARCH, "~method.search.first_factor", method="bcd")
    assert plan.first.request.budget == round(1.5 * plan.request.budget)
    assert plan.first.request.budget == quick_plan(tmp_path, SHARE, *SEARCH, method="bcd").first.request.budget


@pytest.mark.parametrize("way", ["kill", "notice"])
def test_rounds_are_saved_on_the_way(finished, tmp_path, monkeypatch, way):
    """Paper settings have hours of them between two trainings; those that were done are not done again."""
    _, whole = finished
    copy_store(whole, tmp_path)
    for folder in [*tmp_path.glob("store/search/bcd*"), tmp_path / "store" / "finetune"]:
        shutil.rmtree(folder)
    tolerant = ["method.search.tolerance=100", "trainer.checkpoint_seconds=" + ("0" if way == "kill" else "1e9")]
    rounds, real = [], BCD.remove

    def remove(search):
        rounds.append(search.round)
        if len(rounds) == 3:
            if way == "kill":
                raise SystemExit(75)
            os.kill(os.getpid(), signal.SIGUSR2)
        return real(search)

    def end(number, frame):
        raise SystemExit(75)

    monkeypatch.setattr(BCD, "remove", remove)
    before = signal.signal(signal.SIGUSR2, end)
    try:
        with pytest.raises(SystemExit):
            quick_run(tmp_path, SHARE, *SEARCH, *tolerant, method="bcd")
    finally:
        signal.signal(signal.SIGUSR2, before)
    again, _ = quick_run(tmp_path, SHARE, *SEARCH, *tolerant, method="bcd")
    assert rounds == ([0, 1, 2, 2, 3] if way == "kill" else [0, 1, 2, 3])
    search = again.stages["search"]
    assert search.epochs == 1 and again.budget.met == BUDGET
    (file,) = tmp_path.glob("store/search/bcd*/history.csv")
    assert len(file.read_text().splitlines()) == 1 + sum("seconds" in row for row in search.history)


@pytest.mark.slow
def test_run_in_pieces_ends_as_the_undisturbed(finished, tmp_path, run_in_pieces):
    assert_same_in_pieces(finished, tmp_path, run_in_pieces, 4, SHARE, *SEARCH, method="bcd")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("block", 0, "must be a number > 0"),
        ("block", 2.5, "must be an integer, or a share below 1"),
        ("draws", 0, "must be an integer >= 1"),
        ("block_epochs", 0, "must be an integer >= 1"),
        ("tolerance", -1, "must be a number >= 0"),
        ("candidates", 0, "must be a number > 0 and <= 1"),
        ("swaps", "some", "must be an integer >= 0"),
        ("accuracy_images", 0, "must be an integer >= 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(name, value, message):
    with pytest.raises(UserError, match=rf"^method.search.{name}={value}: {message}$"):
        toy(**{name: value})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train=often", r"^method.search.train=often is unknown; valid: needed, always$"),
        ("first_factor=0.5", r"^method.search.first_factor=0.5: must be a number >= 1$"),
        ("first.lasso=0", "method.search.first.lasso=0: must be a number > 0"),
    ],
)
def test_they_are_found_before_anything_is_trained(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        check_stages(quick_plan(tmp_path, SHARE, f"method.search.{setting}", method="bcd"))


def test_a_first_search_that_cannot_be_is_one_line(tmp_path):
    for search, problem in {"senet": "needs sensitivities", "bcd": "starts from another search itself"}.items():
        with pytest.raises(UserError, match=rf"^method.search.first {problem}; give one that does not"):
            quick_plan(tmp_path, SHARE, f"method/search@method.search.first={search}", method="bcd").search  # noqa: B018
    with pytest.raises(UserError, match="has left 12 ReLUs, fewer than the 13 asked"):
        toy(budget=13)


def test_it_starts_from_the_mask_of_a_file(finished, tmp_path):
    """Its own number of ReLUs, whatever `first_factor` says."""
    _, folder = finished
    given = ["method/search@method.search.first=given", f"method.search.first.file={folder / 'mask.safetensors'}"]
    plan = quick_plan(tmp_path, "budget.fraction=0.05", *given, method="bcd")
    assert plan.first.request.budget == BUDGET > plan.request.budget
    with pytest.raises(UserError, match=r"^method\.search\.first\.file=absent"):
        quick_plan(tmp_path, given[0], "method.search.first.file=absent", method="bcd").search  # noqa: B018
    with pytest.raises(UserError, match=r"^method\.search\.first: GivenMask.* unexpected keyword argument 'epochs'"):
        quick_plan(tmp_path, *given, "+method.search.first.epochs=1", method="bcd").search  # noqa: B018
    with pytest.raises(UserError, match=r"^method.search.first keeps .* ReLUs, fewer than the .* asked$"):
        quick_plan(tmp_path, "budget.fraction=0.9", *given, method="bcd").search  # noqa: B018


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method/search@method.search.first=progressive", "method.search.first.epochs: Progressive does not take it"),
        ("method.search.first=null", "method.search.first=null: must be a search, as method/search@"),
    ],
)
def test_a_first_search_that_cannot_be_is_refused_by_its_key(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        check_stages(quick_plan(tmp_path, "scale=debug", setting, method="bcd"))


@pytest.mark.parametrize("scale", ["reduced", "demo", "debug"])
def test_scales_shorten_the_first_search_too(tmp_path, scale):
    search = composed(tmp_path, f"scale={scale}", method="bcd").method.search
    assert search.block_epochs == 1 and search.first.epochs < 2000 and search.block < 1
