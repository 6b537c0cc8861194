"""Sensitivities without training: released vectors for both conventions, fixed rules, lists of the user."""

import math
from pathlib import Path

import pytest
import torchvision

from relinearize.backbones import BACKBONES, build_backbone
from relinearize.errors import UserError
from relinearize.methods.senet.released import RELEASED, Released, released_vector
from relinearize.methods.senet.sensitivity import Given, Proportional, Uniform
from relinearize.relu.allocation import allocate
from relinearize.relu.sites import linearize, site_shapes

SHAPES = {"relu1": (4, 8, 8), "relu2": (8, 4, 4), "relu3": (5,)}


@pytest.mark.parametrize("convention", ["senet", "snl"])
@pytest.mark.parametrize("backbone", [name for name in RELEASED if name in BACKBONES])
def test_released_fits_the_sites_of_our_backbones(backbone: str, convention: str) -> None:
    """Number, order and the site that the snl convention lacks: stem in ResNets, final in WRNs, none in VGG."""
    width = 2
    with_all = linearize(build_backbone(backbone, classes=10, image_size=32, width=width), (3, 32, 32))
    wanted = dict(zip(site_shapes(with_all), RELEASED[backbone], strict=True))
    network = linearize(
        build_backbone(backbone, classes=10, image_size=32, width=width, convention=convention), (3, 32, 32)
    )
    shapes = site_shapes(network)
    found = Released().sensitivities(shapes, backbone)
    assert list(found) == list(shapes)
    assert found == {name: wanted[name] for name in shapes}
    lacking = {"resnet18": {"relu1"}, "resnet34": {"relu1"}, "wrn22_8": {"relu"}, "vgg16_bn": set()}
    assert wanted.keys() - found.keys() == (lacking[backbone] if convention == "snl" else set())


@pytest.mark.parametrize(("backbone", "sites"), [("resnet8", 7), ("resnet18", 15), ("resnet18", 18), ("vgg16_bn", 12),
                                                 ("torchvision_resnet", 17), ("x", 0)])  # fmt: skip
def test_released_refuses_other_networks(backbone: str, sites: int) -> None:
    shapes = {f"site{index}": (1, 2, 2) for index in range(sites)}
    with pytest.raises(UserError, match=rf"{backbone} with {sites} sites.*resnet18 \(17 sites\).*sensitivity=computed"):
        Released().sensitivities(shapes, backbone)
    assert released_vector(backbone, sites) is None


def test_released_covers_known_backbones_only() -> None:
    assert RELEASED.keys() - set(BACKBONES) == {"torchvision_resnet18"}
    sites = site_shapes(linearize(torchvision.models.resnet18(num_classes=10), (3, 32, 32)))
    assert len(sites) == len(RELEASED["torchvision_resnet18"])
    assert all(max(vector) == 1.0 and min(vector) > 0 for vector in RELEASED.values())


def test_uniform_and_proportional() -> None:
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    uniform = Uniform().sensitivities(SHAPES, "any")
    assert allocate(sizes, uniform, 12) == {"relu1": 4, "relu2": 4, "relu3": 4}
    proportional = Proportional().sensitivities(SHAPES, "any")
    assert proportional == {"relu1": 256.0, "relu2": 128.0, "relu3": 5.0}
    # 389 positions in all: whatever the budget, each keeps its fraction of them to within one.
    counts = allocate(sizes, proportional, 100)
    assert all(abs(counts[name] - 100 * sizes[name] / 389) < 1 for name in sizes)


@pytest.mark.parametrize(
    "text", ["[0.5, 1, 0]", "- 0.5\n- 1\n- 0\n", "relu3: 0\nrelu1: 0.5\nrelu2: 1\n", "[5e-1, '1', 0]"]
)
def test_given_by_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "eta.yaml"
    file.write_text(text)
    found = Given(file=file).sensitivities(SHAPES, "any")
    assert found == {"relu1": 0.5, "relu2": 1.0, "relu3": 0.0} and list(found) == list(SHAPES)


def test_given_by_value() -> None:
    wanted = {"relu1": 3.0, "relu2": 1.0, "relu3": 2.0}
    assert Given([3, 1, 2]).sensitivities(SHAPES, "any") == wanted
    assert Given({"relu2": 1, "relu3": 2, "relu1": 3}).sensitivities(SHAPES, "any") == wanted


def test_fractions_are_cut_off_like_the_official_counts():
    """int(0.1 * 256), int(0.29 * 128) and int(0.5 * 5); a budget of their sum keeps exactly these."""
    found = Given([0.1, 0.29, 0.5], fractions=True).sensitivities(SHAPES, "any")
    assert found == {"relu1": 25, "relu2": 37, "relu3": 2}
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    assert allocate(sizes, found, 64) == found
    with pytest.raises(UserError, match=r"sensitivity\.values: 1\.5 for site relu2 is no share; give at most 1"):
        Given([0.1, 1.5, 0.5], fractions=True).sensitivities(SHAPES, "any")
    with pytest.raises(UserError, match=r"sensitivity\.fractions=2 is unknown"):
        Given([1, 1, 1], fractions=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2], r"sensitivity\.values: 2 numbers, but the network has 3 sites: relu1, relu2, relu3"),
        ([], "0 numbers"),
        ({"relu1": 1, "relu2": 1}, r"without a number \[relu3\]"),
        ({"relu1": 1, "relu2": 1, "relu3": 1, "relu9": 1}, r"unknown sites \[relu9\]; the network has relu1"),
        ([1, -1, 1], "-1 for site relu2"),
        ([1, math.nan, 1], "nan for site relu2"),
        ([1, math.inf, 1], "inf for site relu2"),
        ([1, "much", 1], "'much' for site relu2"),
        ([1, None, 1], "None for site relu2"),
        ([1, True, 1], "True for site relu2"),
        ([1, [1], 1], r"\[1\] for site relu2"),
        ([0, 0, 0.0], "all numbers are 0"),
        ("abc", "'abc' is neither a list"),
        (5, "5 is neither a list"),
    ],
)
def test_given_refuses(values: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Given(values).sensitivities(SHAPES, "any")
    assert "\n" not in str(caught.value)


def test_given_wants_exactly_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sensitivity\.values .*sensitivity\.file .*not neither"):
        Given()
    with pytest.raises(UserError, match="not both"):
        Given([1], tmp_path / "eta.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2\nb: }", "is no YAML file at line 2"),
        (b"\xff\xfe\x00", "is no YAML file"),
        (b"!!python/object/apply:os.getcwd []", "is no YAML file"),
        (b"", "None is neither a list"),
        (b"just words", "'just words' is neither a list"),
    ],
)
def test_given_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "eta.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Given(file=str(file)).sensitivities(SHAPES, "any")
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_given_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match=r"sensitivity\.file=.* cannot be read"):
            Given(file=path)
