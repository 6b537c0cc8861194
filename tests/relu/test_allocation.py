"""Allocation: exact sums whatever the numbers, whole channels."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relinearize.backbones import build_backbone
from relinearize.errors import UserError
from relinearize.relu.allocation import allocate, allocate_channels
from relinearize.relu.sites import linearize, site_shapes

RESNET18_ETA = (
    0.0572, 0.1854, 0.2129, 0.2506, 0.2758, 0.3549, 0.4884, 0.5102, 0.5568, 0.6739, 0.8143, 0.8277, 0.8623, 0.9410,
    0.9902, 0.9986, 1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    """ResNet-18 at 32 pixels with its stem ReLU: 5 x 65,536, 4 x 32,768, 4 x 16,384, 4 x 8,192."""
    network = linearize(build_backbone("resnet18", classes=10, image_size=32), (3, 32, 32))
    return {name: math.prod(shape) for name, shape in site_shapes(network).items()}


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, float]]:
    number = draw(st.integers(1, 8))
    some = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-300, 1e300]), st.floats(0, 1e6))
    sizes = draw(st.lists(st.integers(1, 400), min_size=number, max_size=number))
    etas = draw(st.lists(some, min_size=number, max_size=number).filter(any))
    return {f"s{i}": size for i, size in enumerate(sizes)}, {f"s{i}": eta for i, eta in enumerate(etas)}


@settings(deadline=None, max_examples=150)
@given(case=cases(), share=st.floats(0, 1))
def test_exact_within_sizes_and_by_the_formula(case: tuple[dict, dict], share: float) -> None:
    sizes, etas = case
    total = sum(sizes.values())
    budget = max(1, round(share * total))
    counts = allocate(sizes, etas, budget)
    assert list(counts) == list(sizes) and sum(counts.values()) == budget
    assert all(0 <= counts[name] <= sizes[name] for name in sizes)
    assert counts == allocate(sizes, dict(reversed(etas.items())), budget)

    positive = [name for name in sizes if etas[name] > 0]
    if any(counts[name] for name in sizes if etas[name] == 0):
        assert all(counts[name] == sizes[name] for name in positive)
    # One factor c explains all: unsaturated sites lie within one unit of c * eta, saturated ones below it.
    open_sites = [name for name in positive if counts[name] < sizes[name]]
    at_most = min(((counts[name] + 1) / etas[name] for name in open_sites), default=math.inf)
    for name in positive:
        assert (counts[name] - 1) / etas[name] <= at_most * (1 + 1e-12)

    if budget < total:
        more = allocate(sizes, etas, budget + 1)
        assert all(more[name] >= counts[name] - 1 for name in sizes)


def test_saturation_and_the_way_up_to_the_total(sizes: dict[str, int]) -> None:
    etas = dict(zip(sizes, RESNET18_ETA, strict=True))
    total = sum(sizes.values())
    assert total == 557_056
    for budget in (total, total - 1, total - 17, 300_000, 1):
        counts = allocate(sizes, etas, budget)
        assert sum(counts.values()) == budget
        # Sensitivities grow with depth and sizes fall: sites fill from the last to the first.
        full = [counts[name] == sizes[name] for name in sizes]
        assert full == sorted(full)
    assert allocate(sizes, etas, total) == sizes


def test_fewer_relus_than_sites(sizes: dict[str, int]) -> None:
    counts = allocate(sizes, dict.fromkeys(sizes, 1.0), 5)
    assert list(counts.values()) == [1] * 5 + [0] * 12  # equal remainders: the earlier sites
    counts = allocate(sizes, dict(zip(sizes, RESNET18_ETA, strict=True)), 1)
    assert list(counts.values()) == [0] * 16 + [1]


def test_small_examples_by_hand() -> None:
    assert allocate({"a": 10, "b": 10, "c": 10}, {"a": 1, "b": 2, "c": 3}, 12) == {"a": 2, "b": 4, "c": 6}
    assert allocate({"a": 10, "b": 10, "c": 4}, {"a": 1, "b": 2, "c": 3}, 13) == {"a": 3, "b": 6, "c": 4}
    assert allocate({"a": 9, "b": 9}, {"a": 1, "b": 1}, 7) == {"a": 4, "b": 3}
    assert allocate({"a": 3, "b": 9, "c": 9}, {"a": 1, "b": 0, "c": 0}, 8) == {"a": 3, "b": 3, "c": 2}


def test_a_common_factor_has_no_meaning(sizes: dict[str, int]) -> None:
    etas = dict(zip(sizes, RESNET18_ETA, strict=True))
    assert allocate(sizes, etas, 50_000) == allocate(sizes, {name: eta / 1024 for name, eta in etas.items()}, 50_000)


@pytest.mark.parametrize(
    ("etas", "budget", "message"),
    [
        ({"a": 1.0, "b": -0.5}, 5, r"site b is -0\.5"),
        ({"a": math.nan, "b": 1.0}, 5, "site a is nan"),
        ({"a": math.inf, "b": 1.0}, 5, "site a is inf"),
        ({"a": 0.0, "b": 0}, 5, "all sensitivities are 0"),
        ({"a": 1.0}, 5, r"without one \[b\]"),
        ({"a": 1.0, "b": 1.0, "x": 1.0}, 5, r"unknown sites \[x\]"),
        ({"a": 1.0, "b": 1.0}, 0, "budget 0 .* from 1 to 20"),
        ({"a": 1.0, "b": 1.0}, 21, "budget 21 .* from 1 to 20"),
        ({"a": 1.0, "b": 1.0}, 1.5, r"budget 1\.5"),
    ],
)
def test_refusals(etas: dict, budget: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        allocate({"a": 10, "b": 10}, etas, budget)
    assert "\n" not in str(caught.value)


def test_channels_by_hand() -> None:
    shapes = {"a": (4, 4, 4), "b": (8, 2, 2)}  # maps of 16 and 4
    # Counts 24 and 24: one channel of a and half of another (which does not fit), all six of b; two more of b fit.
    assert allocate_channels(shapes, {"a": 1, "b": 1}, 48) == {"a": 1, "b": 8}
    # Counts 28 and 28: one channel of a and all of b leave 8, too little for a; two channels of b less, and it fits.
    assert allocate_channels(shapes, {"a": 1, "b": 1}, 56) == {"a": 2, "b": 6}
    # Maps of 25 and 4: counts 18 and 12; b's three channels leave 18. One of a and one of b are 29 of 30.
    assert allocate_channels({"a": (4, 5, 5), "b": (3, 2, 2)}, {"a": 1, "b": 2}, 30) == {"a": 1, "b": 1}
    assert allocate_channels(shapes, {"a": 1, "b": 1}, 96) == {"a": 4, "b": 8}
    assert allocate_channels({"flat": (7,)}, {"flat": 1}, 3) == {"flat": 3}
    # One channel is left; both have half of one broken off, and the earlier gets it.
    assert allocate_channels({"a": (4, 2, 2), "b": (4, 2, 2)}, {"a": 1, "b": 1}, 12) == {"a": 2, "b": 1}


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_channels_never_above_and_no_more_fits(data: st.DataObject) -> None:
    side = st.sampled_from([1, 2, 3, 4, 8])
    shapes = {
        f"s{i}": shape
        for i, shape in enumerate(data.draw(st.lists(st.tuples(st.integers(1, 9), side, side), min_size=1, max_size=6)))
    }
    etas = dict(zip(shapes, data.draw(st.lists(st.floats(0.01, 5), min_size=6, max_size=6)), strict=False))
    etas["s0"] *= data.draw(st.sampled_from([0, 1])) if len(shapes) > 1 else 1
    maps = {name: height * width for name, (_, height, width) in shapes.items()}
    total = sum(math.prod(shape) for shape in shapes.values())
    budget = data.draw(st.integers(min(maps.values()), total))
    channels = allocate_channels(shapes, etas, budget)
    assert list(channels) == list(shapes)
    rest = budget - sum(channels[name] * maps[name] for name in shapes)
    assert rest >= 0
    assert all(0 <= channels[name] <= shapes[name][0] for name in shapes)
    assert all(maps[name] > rest for name in shapes if channels[name] < shapes[name][0])
    assert channels == allocate_channels(shapes, etas, budget)
    # Nor does one channel more at one site for a few less at another come closer.
    for more, less in itertools.permutations(shapes, 2):
        for number in range(1, channels[less] + 1):
            left = rest - maps[more] + number * maps[less]
            assert channels[more] == shapes[more][0] or left < 0 or left >= rest


def test_channels_refuse_less_than_one() -> None:
    with pytest.raises(UserError, match=r"budget 63 .* at least 64"):
        allocate_channels({"a": (4, 16, 16), "b": (4, 8, 8)}, {"a": 1, "b": 1}, 63)
