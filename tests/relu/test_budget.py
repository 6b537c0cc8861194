"""Budgets: parsing, refusals, and masks that meet them exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from relinearize.errors import UserError
from relinearize.relu.budget import kept_first, parse_count, resolve_budget, top_mask

TOTAL = 557_056


@pytest.mark.parametrize(
    ("given", "count"),
    [(37000, 37000), ("37000", 37000), ("37k", 37000), ("37.5K", 37500), ("1.2M", 1_200_000), (" 50 k ", 50_000),
     ("1_000", 1000), ("557,056", 557_056), (5e4, 50_000), (".5k", 500)],
)  # fmt: skip
def test_counts(given: object, count: int) -> None:
    assert parse_count(given) == count and type(parse_count(given)) is int


NONSENSE = [0, -1, 1.5, math.nan, math.inf, True, False, None, [1]]
NONSENSE += ["0", "-3k", "1.0001k", "", "k", "many", "1e3k", "37,5k", "1,23", "5g"]


def test_infinite_scores_stay_first_and_last_where_the_kept_come_first() -> None:
    """Two are kept, one of them of least score; of the others one has the largest."""
    scores = {"x": torch.tensor([math.inf, 2.0, -math.inf, -math.inf]), "y": torch.tensor([1.0])}
    kept = {"x": torch.tensor([False, True, True, False]), "y": torch.tensor([False])}
    order = kept_first(scores, kept)
    found = [top_mask(order, count) for count in range(1, 5)]
    assert [mask["x"].tolist() for mask in found[:3]] == [
        [False, True, False, False], [False, True, True, False], [True, True, True, False]
    ]  # fmt: skip
    assert found[3]["y"].tolist() == [True]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
def test_counts_refused(value: object) -> None:
    with pytest.raises(UserError, match="is not a number of ReLUs"):
        parse_count(value)


@pytest.mark.parametrize("value", [v for v in NONSENSE if v is not None], ids=repr)
def test_budget_refused_naming_the_total(value: object) -> None:
    with pytest.raises(UserError, match=r"budget\.relus=.*557,056"):
        resolve_budget(value, None, TOTAL)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, math.nan, True, "half", "", [0.5]], ids=repr)
def test_fraction_refused_naming_the_total(value: object) -> None:
    with pytest.raises(UserError, match=r"budget\.fraction=.*557,056"):
        resolve_budget(None, value, TOTAL)


def test_budget_messages() -> None:
    with pytest.raises(UserError) as caught:
        resolve_budget(600000, None, TOTAL)
    expected = "budget.relus=600000 is more than the 557,056 ReLUs of this network; give 1 to 557,056"
    assert str(caught.value) == expected
    for relus, fraction, word in ((None, None, "neither"), (5, 0.5, "both")):
        with pytest.raises(UserError, match=f"not {word}"):
            resolve_budget(relus, fraction, TOTAL)


def test_budget_values() -> None:
    assert resolve_budget("50k", None, TOTAL) == 50_000
    assert resolve_budget(TOTAL, None, TOTAL) == TOTAL
    assert resolve_budget(None, 0.1, TOTAL) == 55_706
    assert resolve_budget(None, "0.25", TOTAL) == 139_264
    assert resolve_budget(None, 1, TOTAL) == TOTAL
    assert resolve_budget(None, 1e-9, TOTAL) == 1


@st.composite
def scores(draw: st.DrawFn) -> dict[str, Tensor]:
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    values = st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(width=32, allow_nan=False))
    return {
        f"site{number}": torch.tensor(draw(st.lists(values, min_size=2 * size, max_size=2 * size))).view(2, size)
        for number, size in enumerate(sizes)
    }


@settings(deadline=None, max_examples=150)
@given(scores(), st.data())
def test_exact_deterministic_nested(scores: dict[str, Tensor], data: st.DataObject) -> None:
    flat = torch.cat([score.flatten() for score in scores.values()])
    budget = data.draw(st.integers(1, flat.numel()))
    smaller = data.draw(st.integers(1, budget))
    mask, inner = top_mask(scores, budget), top_mask(scores, smaller)
    assert mask.count == budget and inner.count == smaller
    assert list(mask) == list(scores) and all(mask[name].shape == score.shape for name, score in scores.items())
    assert top_mask(scores, budget) == mask
    assert all(bool((inner[name] <= mask[name]).all()) for name in mask)
    # The definition: sort by falling score, ties by site and flat index.
    order = sorted(range(flat.numel()), key=lambda position: (-float(flat[position]), position))
    kept = torch.cat([mask[name].flatten() for name in mask]).nonzero().squeeze(1).tolist()
    assert kept == sorted(order[:budget])


def test_ties_go_to_the_earlier_site() -> None:
    mask = top_mask({"b": torch.ones(2, 2), "a": torch.ones(3)}, 5)
    assert mask["b"].all() and mask["a"].tolist() == [True, False, False]


def test_infinite_scores_and_other_dtypes() -> None:
    scores = {"a": torch.tensor([-math.inf, math.inf, 0.0]), "b": torch.tensor([-math.inf, math.inf])}
    assert top_mask(scores, 4).counts == {"a": 3, "b": 1}
    assert top_mask({"a": torch.tensor([3, 1, 2])}, 2)["a"].tolist() == [True, False, True]
    assert top_mask({"a": torch.tensor([3, 1, 2], dtype=torch.bfloat16)}, 1)["a"].tolist() == [True, False, False]


def test_a_large_network_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {f"s{n}": torch.randint(0, 50, (128, 32, 32), generator=generator).float() for n in range(11)}
    for budget in (1, 50_000, 1_000_000, 11 * 2**17):
        assert top_mask(scores, budget).count == budget


def test_refusals() -> None:
    with pytest.raises(UserError, match="site bad hold NaN"):
        top_mask({"good": torch.ones(2), "bad": torch.tensor([math.nan])}, 1)
    with pytest.raises(UserError, match="no scores"):
        top_mask({}, 1)
    for budget in (-1, 3):
        with pytest.raises(UserError, match="give 1 to 2"):
            top_mask({"a": torch.ones(2)}, budget)
