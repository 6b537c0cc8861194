"""The planners of DELPHI and SAFENet: plans by hand, and runs from end to end."""

import sys
from types import SimpleNamespace

import pytest
import torch
from quick_runs import assert_same_in_pieces, quick_plan, quick_run
from safetensors.torch import load_file
from torch import nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError
from relinearize.methods.baselines.delphi import Delphi
from relinearize.methods.baselines.planner import counts_from_below
from relinearize.methods.baselines.safenet import MixedDegrees, SAFENet
from relinearize.methods.losses import accuracy
from relinearize.methods.replacement import Cubic, Quadratic
from relinearize.methods.scores import negative_share
from relinearize.private_inference.bundle.bundle import read_bundle, worst_difference
from relinearize.relu.sites import linearize
from relinearize.report.tables.pareto import build_panels
from relinearize.runs.finished import FinishedRun
from relinearize.runs.pipeline import check_stages

SEARCH = ["method.search.trials=3", "method.search.trial_epochs=1", "method.search.population=2",
          "method.search.batch_size=60"]  # fmt: skip
PLANNERS = {"delphi": SEARCH, "safenet": [*SEARCH, "method.search.score_images=120"]}
SHARE = "budget.fraction=0.3"  # 691 of 2,304, at sites of 512, 512, 512, 256, 256, 128 and 128


@pytest.fixture(scope="module", params=PLANNERS)
def made(request, taught):
    """(method, record, folder) of a run on its own."""
    return request.param, *quick_run(taught(), SHARE, *PLANNERS[request.param], method=request.param)


def toy(kind, budget, **settings):
    """A search over three sites of 4 channels with 4 pixels, of 2 with 4, and of 3 features: 16, 8 and 3 ReLUs."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU()
    )
    network = linearize(network, (1, 2, 2))
    given = {"batch_size": 2, "learning_rate": 1.0, "trials": 2, "fit": Quadratic()} | settings
    if kind is SAFENet:
        given |= {"score": negative_share, "fit": Cubic()}
    return kind(network, network, budget=budget, **given)


@pytest.mark.parametrize(
    ("budget", "wanted", "found"),
    [
        (24, (1, 1, 1), (1, 1, 0)),  # the first two fit exactly
        (20, (1, 1, 1), (1, 0, 1)),  # 16 + 3: more than 16, or 8 + 3
        (12, (1, 1, 1), (0, 1, 1)),
        (27, (1, 1, 1), (1, 1, 1)),
        (2, (1, 1, 1), (0, 0, 0)),
    ],
)
def test_counts_are_the_most_that_lie_below_the_budget(budget, wanted, found):
    units, order = {"a": (1, 16), "b": (1, 8), "c": (1, 3)}, ["a", "b", "c"]
    counts = counts_from_below(units, order, dict(zip(order, wanted, strict=True)), budget)
    assert tuple(counts.values()) == found
    assert tuple(counts_from_below(units, order[::-1], counts, budget).values()) == found, "in any order"


def test_counts_are_next_to_the_wanted_ones():
    units = {"a": (4, 4), "b": (8, 1)}
    assert counts_from_below(units, ["a", "b"], {"a": 1, "b": 8}, 10) == {"a": 1, "b": 6}
    assert counts_from_below(units, ["a", "b"], {"a": 0, "b": 8}, 10) == {"a": 1, "b": 6}, "0 leaves 2 over"
    assert counts_from_below(units, ["a", "b"], {"a": 4, "b": 0}, 10) == {"a": 2, "b": 2}


def test_delphis_layers_by_priority():
    stage = toy(Delphi, 11)
    mask, fit = stage.plan({"1": 0.9, "3": 0.2, "6": 0.1})
    assert list(mask.counts.values()) == [0, 8, 3] and fit is stage.fit, "the first does not fit"
    even = toy(Delphi, 16)
    assert list(even.plan({"1": 0.1, "3": 0.9, "6": 0.5})[0].counts.values()) == [16, 0, 0], "only it meets the budget"


def test_safenets_channels_by_score_and_degree():
    stage = toy(SAFENet, 11)
    stage.scores = {
        "1": torch.tensor([4.0, 1.0, 3.0, 2.0]).view(4, 1, 1).expand(4, 2, 2),
        "3": torch.tensor([1.0, 2.0]).view(2, 1, 1).expand(2, 2, 2),
        "6": torch.tensor([1.0, 3.0, 2.0]),
    }
    mask, fit = stage.plan(
        {"1 kept": 1.0, "1 cubic": 0.67, "3 kept": 0.0, "3 cubic": 0.5, "6 kept": 1.0, "6 cubic": 1.0}
    )
    assert mask.counts == {"1": 8, "3": 0, "6": 3}
    assert mask["1"].flatten(1).all(1).tolist() == [True, False, True, False], "the channels of largest score"
    assert {name: one.tolist() for name, one in fit.cubic.items()} == {
        "1": [False, False, False, True],  # 0.67 of two removed channels: the better one
        "3": [False, True],
        "6": [False] * 3,
    }


def test_degrees_of_single_channels():
    mean, deviation = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.0])
    found = MixedDegrees({"1": torch.tensor([True, False])}).at_site("1", mean, deviation)
    assert torch.equal(found[:, 0], Cubic.fitted(mean, deviation)[:, 0])
    assert torch.equal(found[:3, 1], Quadratic.fitted(mean, deviation)[:, 1]) and found[3, 1] == 0 != found[3, 0]


def test_plans_are_functions_of_seed_and_finished_trials():
    stage, other = toy(Delphi, 11, population=2), toy(Delphi, 11, population=2)
    for number in range(5):
        proposed = stage.propose()
        assert proposed == other.propose() and set(proposed["params"]) == {"1", "3", "6"}
        stage.trials.append(proposed | {"value": float(number)})
        other.trials.append(proposed | {"value": float(number)})
    assert len({tuple(trial["params"].values()) for trial in stage.trials}) >= 3
    generations = [next(v for k, v in trial["system_attrs"].items() if "generation" in k) for trial in stage.trials]
    assert generations == [0, 0, 1, 1, 2], "it is bred, not drawn"
    other.seed = 1
    assert stage.propose() != other.propose()


def test_gradients_are_clipped_and_finite():
    stage = toy(Delphi, 11, clip=0.5)
    for weight in stage.network.parameters():
        weight.grad = torch.full_like(weight, 3.0)
    stage.network[0].weight.grad[0] = float("nan")
    stage.on_before_optimizer_step()
    norm = torch.stack([weight.grad.norm() for weight in stage.network.parameters()]).norm()
    assert float(norm) == pytest.approx(0.5, abs=1e-4)


def test_polynomials_come_in_anew_in_every_trial():
    stage = toy(Delphi, 11, trials=3, trial_epochs=2)
    stage.train_loader = range(4)
    for epoch, expected in ((0, 0.0625), (1, 0.5625), (2, 0.0625), (5, 0.5625)):
        stage.train_by(SimpleNamespace(current_epoch=epoch))
        assert stage.share_before(0) == expected


def test_multipliers_of_classes_begin_anew_in_every_trial(tmp_path, monkeypatch):
    found, begin = [], Delphi.begin_trial

    def noted(stage):
        begin(stage)
        found.append(stage.class_multipliers.state)

    monkeypatch.setattr(Delphi, "begin_trial", noted)
    rate = "+method.search.class_multiplier_rate=1"
    quick_run(tmp_path, SHARE, *SEARCH, rate, "method.finetune.epochs=0", method="delphi")
    assert found == [None] * 3


def test_a_run_leaves_the_weights_of_its_best_trial(made):
    _, record, folder = made
    history = record.stages["search"].history
    (search,) = folder.parents[1].glob("store/search/*/budget-691/weights.safetensors")
    network = FinishedRun.open(folder).network()
    inner_network(network).load_state_dict(load_file(search))
    found = accuracy(network, quick_plan(folder.parents[1], SHARE, method=made[0]).request.data.holdout_loader())
    assert found == pytest.approx(max(row["val/accuracy"] for row in history))


def test_a_run_meets_its_budget_from_below_and_says_what_stands_elsewhere(made, tmp_path):
    method, record, folder = made
    kind, met = {"delphi": ("quadratic", 640), "safenet": ("cubic", 688)}[method]
    assert (record.replacement, record.method.name) == (kind, f"{method}+{kind}")
    assert (record.budget.asked, record.budget.met, record.budget.reached) == (691, met, True)
    if method == "delphi":
        assert all(site.kept in (0, site.total) for site in record.sites)
    else:
        assert all(site.kept % (site.shape[1] * site.shape[2]) == 0 for site in record.sites)
    assert record.cost.quadratic == (2304 - met) * {"quadratic": 1, "cubic": 2}[kind]
    history = record.stages["search"].history
    assert [row["plan/trial"] for row in history] == [0, 1, 2] and "val/accuracy" in history[0]
    from relinearize.commands.export import main as export_run

    export_run([f"run={folder}", f"output={tmp_path / 'bundle'}", "images=20"])
    bundle = read_bundle(tmp_path / "bundle")
    assert (bundle.replacement, bundle.relus) == (kind, met) and worst_difference(bundle) < 1e-4


def test_a_run_has_the_coefficients_of_its_plan(made):
    method, _, folder = made
    (search,) = folder.parents[1].glob("store/search/*/budget-691/weights.safetensors")
    planned, weights = load_file(search), load_file(folder / "weights.safetensors")
    coefficients = [name for name in weights if name.endswith(".coefficients")]
    assert len(coefficients) == 7 and all(torch.equal(planned[name], weights[name]) for name in coefficients)
    if method == "safenet":
        highest = torch.cat([weights[name][3].flatten() for name in coefficients])
        assert (highest == 0).any() and (highest != 0).any(), "both degrees"


@pytest.mark.slow
def test_a_killed_search_ends_alike_and_says_what_it_meets(made, tmp_path, run_in_pieces, capsys):
    method, record, folder = made
    assert_same_in_pieces((record, folder), tmp_path, run_in_pieces, 3, SHARE, *PLANNERS[method], method=method)
    unit = {"delphi": "layers", "safenet": "channels"}[method]
    said = f"search: of the 691 ReLUs asked, whole {unit} come to {record.budget.met}"
    assert said in "".join(capsys.readouterr())


def test_curves_of_different_replacement_are_not_joined(made):
    _, record, _ = made
    other = record.model_copy(update={"replacement": "identity", "seed": 1, "key": "other"})
    assert build_panels([record, other])[0].runs["curve"].nunique() == 2


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("delphi", ["method.search.exact=true", SHARE],
         "whole layers have 640 ReLUs at most, not 691; give budget.relus=640"),
        ("safenet", ["method.search.exact=true", SHARE], "whole channels have 688 ReLUs at most, not 691"),
        ("delphi", ["budget.relus=100"], "budget.relus=100: whole layers have 128 ReLUs at least; give 128 or more"),
        ("delphi", ["dataset.holdout=0", "method.teacher.selection=last", "method.finetune.selection=last"],
         "method.search compares plans on held-out images but dataset.holdout=0"),
        ("delphi", ["method.search.population=1"], "method.search.population=1: must be an integer >= 2"),
        ("delphi", ["trainer.devices=2"], "runs on one device; give trainer.devices=1"),
        ("safenet", ["+score.nothing=1"], "method.search.score fails on two images"),
        ("delphi", ["replacement.continuation=2"], "replacement.continuation=2: must be a number >= 0 and <= 1"),
        ("delphi", ["method.search.clip=0"], "method.search.clip=0: must be a number > 0"),
        ("delphi", ["replacement=affine"], "replacement=affine: this search chooses where quadratic ones stand"),
        ("snl", ["method/search=safenet"], "replacement=identity: .* give replacement=cubic"),
        ("delphi", ["allocation=sites"], "allocation=sites: this search itself decides where"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path, method, settings, message):
    with pytest.raises(UserError, match=message):
        check_stages(quick_plan(tmp_path, *settings, method="any search" if method == "snl" else method))


def test_a_missing_optuna_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"method\.search needs the package optuna: pip install -e '\.\[planner\]'"):
        check_stages(quick_plan(tmp_path, SHARE, method="delphi"))


@pytest.mark.parametrize("method", PLANNERS)
def test_the_budget_that_units_meet_is_met_exactly(tmp_path, method):
    stage = check_stages(quick_plan(tmp_path, "budget.relus=640", "method.search.exact=true", method=method))[
        "method.search"
    ]
    assert stage.budget == 640
