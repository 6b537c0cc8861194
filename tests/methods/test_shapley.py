"""Shapley values of sites: games whose values are known, and a whole run."""

import itertools

import pytest
import torch
from quick_runs import composed
from torch import nn

from relinearize import linearize
from relinearize.backbones.adapter import PixelInput
from relinearize.errors import UserError
from relinearize.methods.baselines import shapley
from relinearize.methods.baselines.shapley import ShapleyValues
from relinearize.relu.sites import named_sites
from relinearize.runs.pipeline import run

WORTH = {(): 10.0, (0,): 40.0, (1,): 20.0, (2,): 5.0, (0, 1): 70.0, (0, 2): 35.0, (1, 2): 20.0, (0, 1, 2): 90.0}


def stage_of_game(monkeypatch, worth, **settings):
    """A stage over three sites whose accuracy is `worth` of the sites that keep their ReLUs."""
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(1, 1, 1), nn.ReLU())]
    network = PixelInput(linearize(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2)), [0.0], [1.0])
    sites = list(named_sites(network.network).values())

    def accuracy(network, batches, precision):
        return worth[tuple(number for number, site in enumerate(sites) if site.mask.all())]

    monkeypatch.setattr(shapley, "accuracy", accuracy)
    stage = ShapleyValues(network, **settings)
    monkeypatch.setattr(stage, "further_batches", lambda number, count: iter([(torch.zeros(2, 1, 2, 2), None)]))
    return stage, sites


def shapley_by_hand(worth):
    """The mean over all orders of what each of three players adds."""
    gains = [0.0] * 3
    for order in itertools.permutations(range(3)):
        for place, player in enumerate(order):
            gains[player] += worth[tuple(sorted(order[: place + 1]))] - worth[tuple(sorted(order[:place]))]
    return [gain / 6 for gain in gains]


def test_many_orders_give_the_shapley_values_of_a_game(monkeypatch):
    stage, sites = stage_of_game(monkeypatch, WORTH, permutations=3000)
    values = list(stage.values().values())
    assert values == pytest.approx(shapley_by_hand(WORTH), abs=1.0)
    assert sum(values) == pytest.approx(WORTH[0, 1, 2] - WORTH[()])  # of each order, not only on average
    assert all(site.mask.all() for site in sites)  # the network is left as it was


def test_one_order_is_enough_where_the_sites_do_not_depend_on_each_other(monkeypatch):
    added = [3.0, 5.0, -2.0]
    worth = {players: 50 + sum(added[player] for player in players) for players in WORTH}
    stage, _ = stage_of_game(monkeypatch, worth, permutations=1)
    assert list(stage.values().values()) == pytest.approx(added)
    assert list(stage.sensitivities().values()) == pytest.approx([3.0, 5.0, 0.0])  # what does harm counts as nothing


def test_sites_are_alike_where_none_adds_anything(monkeypatch):
    stage, _ = stage_of_game(monkeypatch, dict.fromkeys(WORTH, 50.0), permutations=1)
    assert set(stage.sensitivities().values()) == {1.0}


@pytest.mark.parametrize("setting", ["permutations", "images"])
def test_settings_are_checked(setting):
    with pytest.raises(UserError, match=rf"sensitivity\.{setting}=0: must be an integer >= 1"):
        ShapleyValues(nn.Identity(), **{setting: 0})


def test_a_run_divides_its_budget_by_them(taught):
    overrides = ["sensitivity=shapley", "sensitivity.permutations=2", "sensitivity.images=100", "budget.relus=300"]
    record, _ = run(composed(taught(), *overrides, method="random_allocated"))
    values = [site.sensitivity for site in record.sites]
    assert record.budget.met == 300 and min(values) >= 0 and max(values) > 0
    assert all(site.kept == 0 for site in record.sites if site.sensitivity == 0)
