"""Narrower networks are the backbones of the smaller width; the ordered network is all of them on one set of weights.

Wherever two networks are compared, the other one is an ordinary network with weights of its own.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_stages import pixel_network, pixels
from torch import Tensor, nn

from relinearize.backbones import PixelInput, build_backbone
from relinearize.errors import UserError
from relinearize.methods.senet.ordered import OneWidth, OrderedNetwork, narrowed
from relinearize.methods.senet.site_outputs import SiteOutputs
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, named_sites, site_shapes, to_masked

SIZE, CLASSES = 16, 5
BACKBONES = {"resnet8": 8, "resnet18": 8, "resnet34": 4, "wrn22_8": 2, "vgg16_bn": 4}
EVERY_BACKBONE = pytest.mark.parametrize(("name", "width"), BACKBONES.items())


def backbone(name: str, width: int, convention: str = "senet") -> nn.Module:
    return build_backbone(name, classes=CLASSES, image_size=SIZE, width=width, convention=convention)


def linear_network(name: str, width: int, convention: str = "senet") -> PixelInput:
    """Half of the positions are ReLUs; batch norms have something to say."""
    network = pixel_network(name, width, SIZE, classes=CLASSES, convention=convention)
    for module in network.modules():
        if isinstance(module, MaskedReLU):
            module.mask.copy_(torch.rand(module.mask.shape) < 0.5)
    return network


def narrower(name: str, width: int, convention: str = "senet") -> Callable[[float], PixelInput]:
    """From a fraction to a network of that width with weights of its own."""
    return lambda fraction: pixels(linearize(backbone(name, int(width * fraction), convention), (3, SIZE, SIZE)))


def half_of(network: PixelInput, name: str, width: int, convention: str = "senet") -> PixelInput:
    return narrowed(network, narrower(name, width, convention)(0.5))


def half_network(name: str, width: int, ordered: OrderedNetwork) -> PixelInput:
    """Built at half the width from the start, with the weights of `ordered` and the first half of its masks."""
    network = pixels(linearize(backbone(name, width // 2), (3, SIZE, SIZE)))
    masks = {key: site.mask[: len(site.mask) // 2] for key, site in named_sites(ordered.full.network).items()}
    to_masked(network.network, Mask(masks))
    network.network.load_state_dict(ordered.weights_at(ordered.state_dict(), 0.5))
    return network


def images(count: int = 4) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(count, 3, SIZE, SIZE)


# ---- narrowed ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@EVERY_BACKBONE
@pytest.mark.parametrize("convention", ["snl", "senet"])
def test_half_of_a_backbone_is_the_backbone_of_half_the_width(name, width, convention):
    network = linear_network(name, width, convention)
    half = half_of(network, name, width, convention)
    plain = linearize(backbone(name, width // 2, convention), (3, SIZE, SIZE))
    found, wanted = half.network.state_dict(), plain.state_dict()
    assert list(found) == list(wanted)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}
    assert site_shapes(half.network) == site_shapes(plain)
    plain.load_state_dict(found)
    to_masked(plain, Mask.of(half.network))
    assert torch.equal(half(images()), pixels(plain)(images()))


def test_first_channels_are_what_stays():
    full = linear_network("resnet8", 8).network
    half = half_of(linear_network("resnet8", 8), "resnet8", 8).network
    assert torch.equal(half.conv1.weight, full.conv1.weight[:4])
    assert torch.equal(half.layer2[0].conv1.weight, full.layer2[0].conv1.weight[:8, :4])
    assert torch.equal(half.layer2[0].shortcut[0].weight, full.layer2[0].shortcut[0].weight[:8, :4])
    assert torch.equal(half.layer2[0].bn1.running_var, full.layer2[0].bn1.running_var[:8])
    assert torch.equal(half.linear.weight, full.linear.weight[:, :16])
    assert torch.equal(half.linear.bias, full.linear.bias)


@EVERY_BACKBONE
def test_relu_count_is_that_of_the_first_half_of_the_channels(name, width):
    network = linear_network(name, width)
    kept = sum(int(site.mask[: len(site.mask) // 2].sum()) for site in named_sites(network.network).values())
    assert Mask.of(half_of(network, name, width).network).count == kept


def test_the_network_itself_stays_as_it_is_and_shares_nothing():
    network = linear_network("resnet8", 8)
    before, masks = copy.deepcopy(network.state_dict()), Mask.of(network.network)
    half = half_of(network, "resnet8", 8)
    for tensor in (*half.parameters(), *half.buffers()):
        tensor.data.zero_()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert Mask.of(network.network) == masks


@pytest.mark.parametrize("fraction", [0.25, 0.75, 1.0])
def test_other_fractions(fraction):
    plain = backbone("resnet18", int(8 * fraction))
    half = narrowed(backbone("resnet18", 8), backbone("resnet18", int(8 * fraction)))
    assert {key: value.shape for key, value in half.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    assert half(images()).shape == (4, CLASSES)


class Functional(nn.Module):
    """Functional and repeated ReLU calls, biases, a head of two linear layers on flattened maps, normed classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.last = nn.Linear(width * 3 // 2, CLASSES)  # before the others, so that order of registration says nothing
        self.norm = nn.BatchNorm1d(CLASSES)
        self.hidden = nn.Linear(width * 8 * 8, width * 3 // 2)
        self.first = nn.Conv2d(3, width, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.norm(self.last(F.relu(self.hidden(torch.flatten(x, 1)))))


def test_networks_of_users_with_functional_calls():
    network, half = (linearize(Functional(width), (3, SIZE, SIZE)) for width in (4, 2))
    half = narrowed(network, half)
    shapes = {key: tuple(value.shape) for key, value in half.named_parameters()}
    assert shapes == {
        "first.weight": (2, 3, 3, 3), "first.bias": (2,), "hidden.weight": (3, 2 * 8 * 8), "hidden.bias": (3,),
        "last.weight": (CLASSES, 3), "last.bias": (CLASSES,), "norm.weight": (CLASSES,), "norm.bias": (CLASSES,),
    }  # fmt: skip
    # the first half of the flattened inputs are those of the first half of the channels
    full = network.eval()
    with torch.no_grad():
        first = F.relu(full.first(images()))[:, :2].flatten(1)
        hidden = F.relu(full.hidden.weight[:3, : 2 * 8 * 8] @ first.T + full.hidden.bias[:3, None]).T
        logits = hidden @ full.last.weight[:, :3].T + full.last.bias
        wanted = full.norm(logits)
    torch.testing.assert_close(half.eval()(images()), wanted)


class Special(nn.Module):
    def __init__(self, kind: str, width: int = 8) -> None:
        super().__init__()
        self.kind = kind
        self.conv1 = nn.Conv2d(width if kind == "twice" else 3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=2 if kind == "groups" else 1)
        self.linear = nn.Linear(2 * width if kind == "concatenation" else width, CLASSES)
        if kind == "other weights":
            self.scale = nn.Parameter(torch.ones(width, 1, 1))
        if kind == "unused":
            self.spare = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "twice":
            x = F.pad(x, (0, 0, 0, 0, 0, self.conv1.in_channels - 3))
            x = self.conv1(x)
        x = self.conv1(x)
        if self.kind == "branch" and x.sum() > 0:
            x = -x
        y = self.conv2(x)
        x = torch.cat([x, y], 1) if self.kind == "concatenation" else y
        if self.kind == "other weights":
            x = x * self.scale
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("groups", "layer conv2 cannot be narrowed: it has 2 groups"),
        ("other weights", "class Special cannot be narrowed"),
        ("branch", "torch.fx cannot follow it"),
        ("concatenation", "concatenate"),
    ],
)
def test_what_cannot_be_narrowed_is_one_line(kind, message):
    network = Special(kind)
    network(images())
    with pytest.raises(UserError, match=message) as error:
        OrderedNetwork(network, lambda fraction: Special(kind, int(8 * fraction)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["unused", "twice"])
def test_layers_that_run_never_or_twice(kind):
    ordered, plain = OrderedNetwork(Special(kind), lambda fraction: Special(kind, int(8 * fraction))), Special(kind, 4)
    plain.load_state_dict(ordered.weights_at(ordered.state_dict(), 0.5))
    assert torch.equal(ordered(images(), 0.5), plain(images()))


# ---- OrderedNetwork ----------------------------------------------------------------------------------------------


@EVERY_BACKBONE
@pytest.mark.parametrize(
    "layout",
    [torch.contiguous_format, pytest.param(torch.channels_last, marks=pytest.mark.slow)],
    ids=["nchw", "nhwc"],
)
def test_each_width_is_exactly_an_ordinary_network(name, width, layout):
    """Training mode (and what it does to the statistics), then eval mode."""
    full = linear_network(name, width)
    ordered = OrderedNetwork(copy.deepcopy(full), narrower(name, width))
    half = half_network(name, width, ordered)
    for network in (full, half, ordered):
        network.to(memory_format=layout)
    pixels = images().contiguous(memory_format=layout)
    for train in (True, False):
        for network in (full, half, ordered):
            network.train(train)
        with torch.no_grad():
            assert torch.equal(ordered(pixels), full(pixels))
            assert torch.equal(ordered(pixels, 0.5), half(pixels))
    state = ordered.state_dict()
    for fraction, plain in ((1.0, full), (0.5, half)):
        found, wanted = ordered.weights_at(state, fraction), plain.network.state_dict()
        assert list(found) == list(wanted)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_bf16_answers_are_those_of_the_ordinary_network():
    ordered = OrderedNetwork(linear_network("resnet8", 8), narrower("resnet8", 8))
    half = half_network("resnet8", 8, ordered)
    with torch.autocast("cpu", torch.bfloat16):
        found = ordered(images(), 0.5)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, half(images()))


@EVERY_BACKBONE
def test_gradients_of_shared_weights_are_the_sum_of_both_widths(name, width):
    full = linear_network(name, width).double()
    ordered = OrderedNetwork(copy.deepcopy(full), narrower(name, width)).double()
    half = half_network(name, width, ordered).double()
    pixels = images().double()
    torch.manual_seed(2)
    wanted = torch.randn(4, CLASSES, dtype=torch.float64)
    for answers in ([ordered(pixels), ordered(pixels, 0.5)], [full(pixels)], [half(pixels)]):
        sum((wanted * answer).sum() for answer in answers).backward()
    own = dict(ordered.named_parameters())
    for key, parameter in full.named_parameters():
        gradient, other = parameter.grad.clone(), half.get_parameter(key).grad
        if isinstance(full.get_submodule(key.rpartition(".")[0]), nn.BatchNorm2d):
            torch.testing.assert_close(own[f"narrow.0.{key}"].grad, other, rtol=1e-10, atol=1e-10)
        else:
            rows, columns = (*other.shape, 1)[:2]
            if other.dim() == 1:
                gradient[:rows] += other
            else:
                gradient[:rows, :columns] += other
        torch.testing.assert_close(own[f"full.{key}"].grad, gradient, rtol=1e-10, atol=1e-10)


def test_parameters_and_state_hold_each_shared_weight_once():
    full = linear_network("resnet8", 8)
    norms = sum(module.num_features for module in full.modules() if isinstance(module, nn.BatchNorm2d))
    count = sum(parameter.numel() for parameter in full.parameters())
    ordered = OrderedNetwork(full, narrower("resnet8", 8))
    assert sum(parameter.numel() for parameter in ordered.parameters()) == count + 2 * norms // 2
    assert all(".bn" in key or ".shortcut.1." in key for key in ordered.state_dict() if key.startswith("narrow"))
    assert not any("conv" in key for key, _ in ordered.narrow.named_parameters())


def test_a_step_of_the_full_weights_is_seen_by_the_narrow_network_at_once():
    ordered = OrderedNetwork(linear_network("resnet8", 8), narrower("resnet8", 8)).eval()
    before = ordered(images(), 0.5)
    with torch.no_grad():
        ordered.full.network.linear.bias += 1
        ordered.full.network.linear.weight[:, 16:] = torch.nan  # of the other half, which the narrow one must not see
    torch.testing.assert_close(ordered(images(), 0.5), before + 1)


def test_each_width_updates_its_own_statistics():
    ordered = OrderedNetwork(linear_network("resnet8", 8), narrower("resnet8", 8), [0.25, 0.5, 1.0])
    before = copy.deepcopy(ordered.state_dict())
    ordered(images(), 0.5)
    changed = {key.split(".network")[0] for key, value in ordered.state_dict().items() if not value.equal(before[key])}
    assert changed == {"narrow.1"}


def test_state_goes_round():
    """All that is trained at either width stands in the state dict."""
    ordered = OrderedNetwork(linear_network("resnet8", 8), narrower("resnet8", 8), [1.0, 0.5])
    optimizer = torch.optim.SGD(ordered.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        (ordered(images()).square().sum() + ordered(images(), 0.5).square().sum()).backward()
        optimizer.step()
    other = OrderedNetwork(linear_network("resnet8", 8), narrower("resnet8", 8))
    other.load_state_dict(ordered.state_dict())
    for fraction in (0.5, 1.0):
        found, wanted = OneWidth(other, fraction).eval()(images()), OneWidth(ordered, fraction).eval()(images())
        assert torch.equal(found, wanted)


def test_hooks_see_the_sites_of_the_width_that_runs():
    network = linear_network("resnet8", 8)
    sites = list(named_sites(network.network))
    ordered = OrderedNetwork(network, narrower("resnet8", 8))
    half = half_network("resnet8", 8, ordered)
    watched = {fraction: SiteOutputs(ordered.at(fraction), sites) for fraction in (0.5, 1.0)}
    plain = SiteOutputs(half, sites)
    with watched[0.5].watching(), watched[1.0].watching(), plain.watching():
        ordered(images(), 0.5)
        half(images())
        assert list(watched[0.5].values) == sites and not watched[1.0].values
        assert all(torch.equal(watched[0.5].values[name], plain.values[name]) for name in sites)
        ordered(images(), 1.0)
        assert watched[1.0].values["relu1"].shape == (4, 8, SIZE, SIZE)


def test_an_ordinary_network_without_adapter_and_sites():
    def of_width(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 14 * 14, 2))

    ordered, plain = OrderedNetwork(of_width(4), lambda fraction: of_width(int(4 * fraction))), of_width(2)
    plain.load_state_dict(ordered.weights_at(ordered.state_dict(), 0.5))
    assert torch.equal(ordered(images(), 0.5), plain(images()))


@pytest.mark.parametrize("widths", [[0.5], [], [0.5, 0.5, 1.0], [1.0, 2.0], [0.0, 1.0], ["half", 1.0], 0.5, [True]])
def test_impossible_widths(widths):
    with pytest.raises(UserError, match=r"different fractions above 0 and up to 1\.0"):
        OrderedNetwork(linear_network("resnet8", 8), narrower("resnet8", 8), widths)


@pytest.mark.slow
def test_compiled(without_code_generation):
    """No graph breaks, the same answers, gradients and statistics, hooks included."""
    torch._dynamo.reset()
    network = linear_network("resnet8", 8)
    plain = OrderedNetwork(network, narrower("resnet8", 8))
    compiled = copy.deepcopy(plain)
    watched = {fraction: SiteOutputs(compiled.at(fraction), ["relu1"]) for fraction in compiled.widths}
    compiled.compile(fullgraph=True)
    for _ in range(2):
        for fraction in compiled.widths:
            with watched[fraction].watching():
                found = compiled(images(), fraction)
            assert watched[fraction].values["relu1"].shape[1] == 8 * fraction
            found.square().sum().backward()
            wanted = plain(images(), fraction)
            torch.testing.assert_close(found, wanted)
            wanted.square().sum().backward()
    for found, wanted in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-4)
    for found, wanted in zip(compiled.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, wanted)
