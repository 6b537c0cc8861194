"""Layer culling: exact budgets, the cheapest to lose go first, floors that hold."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relinearize.errors import UserError
from relinearize.relu.allocation import allocate, allocate_channels
from relinearize.relu.budget import site_mask, top_mask
from relinearize.relu.culling import ScoredPositions, SensitiveSites, cull_by_latency, keep_sites
from relinearize.runs.site_choice import FewerSites

SIZES = {"stem": 64, "wide": 64, "middle": 32, "late": 16, "last": 16}
BUDGET = 40


def scores_of(seed: int, sizes: dict[str, int] = SIZES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(size, generator=generator) - 0.3 for name, size in sizes.items()}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.01, 1),
    number=st.integers(1, 6),
    seed=st.integers(0, 9),
    scored=st.booleans(),
)
def test_the_budget_is_met_exactly_at_no_more_sites_than_asked(sizes, share, number, seed, scored):
    sizes = {f"site{index}": size for index, size in enumerate(sizes)}
    budget, number = max(1, int(share * sum(sizes.values()))), min(number, len(sizes))
    scores = scores_of(seed, sizes)
    etas = {name: float(score.abs().mean()) for name, score in scores.items()}
    divide = ScoredPositions(scores, budget) if scored else SensitiveSites(sizes, etas, budget)
    largest = sum(sorted(sizes.values())[-number:])
    if largest < budget:
        message = f"the {number} largest of the {len(sizes)} sites have {largest} ReLUs.*give at least"
        with pytest.raises(UserError, match=message):
            FewerSites(number).check(sizes, budget)
        return
    division = keep_sites(sizes, budget, divide, number)
    assert list(division.counts) == list(sizes) and sum(division.counts.values()) == budget
    assert len(division.live) <= number
    assert all(0 <= count <= sizes[name] for name, count in division.counts.items())
    assert division == divide(division.live)  # what the search itself makes of these sites


def test_all_sites_live_is_the_search_s_own_division():
    scores = scores_of(0)
    own = keep_sites(SIZES, BUDGET, ScoredPositions(scores, BUDGET), len(SIZES))
    assert own.counts == top_mask(scores, BUDGET).counts and own.worth == BUDGET
    etas = dict(zip(SIZES, (0.1, 0.4, 0.6, 0.9, 1.0), strict=True))
    assert SensitiveSites(SIZES, etas, BUDGET)(SIZES).counts == allocate(SIZES, etas, BUDGET)


def test_positions_of_live_sites_are_those_of_largest_score_there():
    scores = scores_of(1)
    scores["late"][:] = scores["late"][0]  # ties, which go to the lower index
    divide = ScoredPositions(scores, BUDGET)
    live = ["wide", "late"]
    closed = {name: score if name in live else torch.full_like(score, -9.0) for name, score in scores.items()}
    assert site_mask(scores, divide(live).counts) == top_mask(closed, BUDGET)


def test_the_site_that_the_search_keeps_least_of_is_emptied_first():
    scores = {name: torch.linspace(0, 1, size) for name, size in SIZES.items()}
    scores["middle"] -= 0.5  # so that it has fewest of the top positions
    divide = ScoredPositions(scores, BUDGET)
    own = divide(SIZES).counts
    least = min(own, key=own.get)
    division = keep_sites(SIZES, BUDGET, divide, len(SIZES) - 1)
    assert division.counts[least] == 0 and division.worth == BUDGET - own[least]


def test_the_least_sensitive_site_is_emptied_first_and_the_shares_of_the_others_stay():
    etas = dict(zip(SIZES, (0.1, 0.4, 0.6, 0.9, 1.0), strict=True))
    division = keep_sites(SIZES, 20, SensitiveSites(SIZES, etas, 20), 3)
    assert division.live == ["middle", "late", "last"]
    assert division.counts == allocate(SIZES, {**etas, "stem": None, "wide": None}, 20)
    assert division.worth < SensitiveSites(SIZES, etas, 20)(SIZES).worth


def test_the_own_division_of_sensitivities_is_worth_most_of_all():
    """The sum of eta * log n is largest at n = c * eta."""
    etas = {"a": 0.2, "b": 0.5, "c": 0.9}
    counts = allocate(dict.fromkeys(etas, 4000), etas, 1600)
    worth = {
        (a, b): SensitiveSites({"a": a, "b": b, "c": 1600 - a - b}, etas, 1600)(etas).worth  # full sites
        for a, b in itertools.product(range(50, 700, 10), range(50, 800, 10))
    }
    assert worth[200, 500] == pytest.approx(0.2 * math.log(201) + 0.5 * math.log(501) + 0.9 * math.log(901))
    assert max(worth, key=worth.get) == (counts["a"], counts["b"]) == (200, 500)


def test_sites_whose_loss_leaves_too_little_room_stay():
    """Two sites are to hold 100: the two small ones could not, however well the search likes them."""
    sizes = {"large": 90, "small": 30, "smaller": 20}
    etas = {"large": 0.1, "small": 1.0, "smaller": 0.9}
    assert "large" in keep_sites(sizes, 100, SensitiveSites(sizes, etas, 100), 2).live
    dead = {"large": torch.full((90,), -1.0), "small": torch.ones(30), "smaller": torch.ones(20)}
    division = keep_sites(sizes, 45, ScoredPositions(dead, 45), 1)  # none of the large one's own is kept
    assert division.counts == {"large": 45, "small": 0, "smaller": 0} and division.worth == 0


def live_sites(counts: dict[str, int]) -> float:
    return float(sum(count > 0 for count in counts.values()))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("floor", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("scored", [True, False])
def test_a_cull_by_latency_keeps_its_floor_and_no_further_site_could_go(seed, floor, scored):
    scores = scores_of(seed)
    etas = {name: float(score.abs().mean()) for name, score in scores.items()}
    divide = ScoredPositions(scores, BUDGET) if scored else SensitiveSites(SIZES, etas, BUDGET)
    own = divide(SIZES)
    division = cull_by_latency(SIZES, BUDGET, divide, live_sites, floor)
    assert sum(division.counts.values()) == BUDGET
    assert division.worth >= floor * own.worth
    for name in division.live:
        rest = [other for other in division.live if other != name]
        assert sum(SIZES[other] for other in rest) < BUDGET or divide(rest).worth < floor * own.worth
    if floor == 1:
        assert division == own
    if floor == 0 and scored:  # the least sensitive go first, however many they hold: two of the others may be needed
        assert len(division.live) == 1


def test_no_set_of_sites_is_cheaper_where_all_cost_the_same():
    """By trying all of them; with a price of their number the greedy way is the best here."""
    for seed in range(5):
        divide = ScoredPositions(scores_of(seed), BUDGET)
        floor = 0.6 * divide(SIZES).worth
        ways = [way for length in range(1, 6) for way in itertools.combinations(SIZES, length)]
        able = [way for way in ways if sum(SIZES[name] for name in way) >= BUDGET]
        best = min(live_sites(divide(way).counts) for way in able if divide(way).worth >= floor)
        assert live_sites(cull_by_latency(SIZES, BUDGET, divide, live_sites, 0.6).counts) == best


def test_what_saves_most_for_its_worth_goes_first():
    """A site may be dear for other reasons than its rounds."""
    price = {"stem": 10.0, "wide": 1.0, "middle": 1.0, "late": 1.0, "last": 1.0}
    divide = ScoredPositions({name: torch.linspace(0, 1, size) for name, size in SIZES.items()}, BUDGET)
    division = cull_by_latency(
        SIZES, BUDGET, divide, lambda counts: sum(price[name] for name, count in counts.items() if count), 0.6
    )
    assert "stem" not in division.live and "wide" in division.live  # as large, as many of the top positions


def test_emptied_sites_get_nothing_in_whole_channels_either():
    shapes = {"first": (4, 3, 3), "second": (8, 2, 2), "third": (8, 1, 1)}
    etas = {"first": None, "second": 0.5, "third": 0.5}
    assert allocate_channels(shapes, etas, 37) == {"first": 0, "second": 8, "third": 5}
    with pytest.raises(UserError, match="cannot be allocated to 40 ReLUs"):
        allocate_channels(shapes, etas, 41)


def test_live_sites_without_any_sensitivity_are_alike():
    etas = {"stem": 1.0, "wide": 0.0, "middle": 0.0, "late": 0.0, "last": 0.0}
    divide = SensitiveSites(SIZES, etas, 20)
    assert divide.among(["late", "last"]) == {**dict.fromkeys(SIZES), "late": 1.0, "last": 1.0}
    assert divide(["late", "last"]).counts == {**dict.fromkeys(SIZES, 0), "late": 10, "last": 10}
