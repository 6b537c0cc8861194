"""linearize() on networks of every style: modules, functional, in-place, shared modules, torchvision's."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import relinearize
from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU, SlopedReLU
from relinearize.relu.mask import Mask, relu_counts, relu_total
from relinearize.relu.sites import linearize, named_sites, site_shapes, to_masked, to_sloped

SIZE = (3, 8, 8)


class Toy(nn.Module):
    """Two convolutions and a head; subclasses say how the ReLUs are called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.linear = nn.Linear(4, 5)

    def head(self, x: Tensor) -> Tensor:
        return self.linear(x.mean(dim=(2, 3)))


class Modules(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.ReLU(inplace=True), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.conv2(self.first(self.norm(self.conv1(x))))))


class Functional(Toy):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        return self.head(torch.relu(self.conv2(x)).relu())


class CalledTwice(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv2(self.act(self.norm(self.conv1(x))))))


class InPlaceSkip(Toy):
    """The skip connection reads the tensor that the ReLU has overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x))
        return self.head(self.conv2(self.act(x)) + x)


class InPlaceFunctions(Toy):
    """In-place calls whose results are thrown away."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x))
        F.relu(x, inplace=True)
        x = self.conv2(x)
        x.relu_()
        x = self.conv2(x)
        torch.relu_(x)
        return self.head(x)


class MixedNames(Toy):
    """A module called `relu` beside functional calls in the same place, and functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(self.relu(self.norm(self.conv1(x)))))
        return self.head(F.dropout(x, 0.5, self.training))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Functional()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.part(x))


class TwoNames(Toy):
    """One module under two names, called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.body = nn.Sequential(self.conv1, self.norm, self.act, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class FromList(Toy):
    """The module is reached by a list that swapping an attribute does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.parts = [self.act]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.parts[0](self.norm(self.conv1(x)))))


EXPECTED = {
    Modules: (["first", "second"], 2 * 256),
    Functional: (["relu", "relu_1", "relu_2"], 3 * 256),
    CalledTwice: (["act", "act_1"], 2 * 256),
    InPlaceSkip: (["act"], 256),
    InPlaceFunctions: (["relu", "relu_1", "relu_2"], 3 * 256),
    MixedNames: (["relu", "relu_1"], 2 * 256),
    Nested: (["part.relu", "part.relu_1", "part.relu_2", "relu"], 3 * 256 + 5),
    TwoNames: (["act"], 256),
    FromList: (["act"], 256),
}


def built(kind: type, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_()
    return model


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_style_of_calling(kind: type) -> None:
    names, total = EXPECTED[kind]
    model, x = built(kind), torch.randn(6, *SIZE)
    network = linearize(model, SIZE)
    assert list(named_sites(network)) == names
    assert [site.index for site in named_sites(network).values()] == list(range(len(names)))
    assert relu_total(network) == total == sum(relu_counts(network).values())
    model.eval(), network.eval()
    expected = model(x.clone())
    assert torch.equal(network(x.clone()), expected)

    for site in named_sites(network).values():
        site.mask.zero_()  # all linear: negative values pass everywhere
    assert relu_total(network) == 0
    assert not torch.allclose(network(x.clone()), expected)


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_model_and_the_random_state_stay_as_they_are(kind: type) -> None:
    model = built(kind)
    model.train()
    model.conv2.eval() if hasattr(model, "conv2") else None
    before, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    modes = {name: module.training for name, module in model.named_modules()}
    random_state = torch.get_rng_state()
    network = linearize(model, SIZE)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert dict(model.named_modules()) == modules
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())

    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training == modes[name] for name, module in network.named_modules() if name in modes)


@pytest.mark.parametrize("kind", EXPECTED)
def test_training_mode_gives_the_same_gradients(kind: type) -> None:
    model = built(kind)
    network, x = linearize(model, SIZE), torch.randn(6, *SIZE)
    results = []
    for each in (model, network):
        each.train()
        torch.manual_seed(5)
        each(x.clone()).square().sum().backward()
        results.append({name: value.grad for name, value in each.named_parameters() if value.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, msg=name)
    statistics = [dict(each.named_buffers()) for each in (model, network)]
    for name, value in statistics[0].items():
        torch.testing.assert_close(statistics[1][name], value)


def test_modules_called_once_keep_the_users_class() -> None:
    assert type(linearize(built(Modules), SIZE)) is Modules
    assert isinstance(linearize(nn.ReLU(), (4,)), nn.Sequential)


def test_functional_dropout_works_in_training_again() -> None:
    network = linearize(built(MixedNames), SIZE)
    assert isinstance(network.dropout, nn.Dropout) and network.dropout.p == 0.5
    x = torch.randn(4, *SIZE)
    network.norm.eval()
    assert network.dropout.training and not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_sites_change_their_kind_and_survive_copies() -> None:
    network = linearize(built(CalledTwice), SIZE)
    x = torch.randn(2, *SIZE)
    network.eval()
    expected, shapes = network(x), site_shapes(network)
    to_sloped(network)
    assert all(isinstance(site, SlopedReLU) and bool((site.alpha == 1).all()) for site in named_sites(network).values())
    assert torch.equal(network(x), expected) and site_shapes(network) == shapes
    with pytest.raises(UserError, match="has slopes"):
        relu_counts(network)
    with pytest.raises(UserError, match="has slopes"):
        Mask.of(network)

    mask = Mask({name: torch.rand(shape) < 0.3 for name, shape in shapes.items()})
    to_masked(network, mask)
    copied = copy.deepcopy(network)
    assert list(named_sites(copied)) == list(shapes) and Mask.of(copied) == mask
    assert relu_total(copied) == mask.count and all(isinstance(s, MaskedReLU) for s in named_sites(copied).values())
    with pytest.raises(UserError, match="already linearized"):
        linearize(network, SIZE)


def test_a_module_under_two_names_changes_under_both() -> None:
    network = linearize(built(TwoNames), SIZE)
    to_sloped(network)
    assert network.act is network.body[2] and isinstance(network.act, SlopedReLU)


def test_sites_sort_by_index_not_by_name() -> None:
    network = nn.ModuleDict({"late": MaskedReLU((2,), 1), "early": MaskedReLU((3,), 0)})
    assert site_shapes(network) == {"early": (3,), "late": (2,)}


@pytest.mark.parametrize(
    ("name", "sites", "total"),
    [
        ("resnet18", 17, 188_416),
        pytest.param("vgg16_bn", 15, 1_114_112, marks=pytest.mark.slow),  # 134 million weights
        ("googlenet", 57, 263_360),
    ],
)
def test_torchvision(name: str, sites: int, total: int) -> None:
    extra = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=10, **extra)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network = linearize(model, (3, 64, 64))
    assert len(named_sites(network)) == sites and relu_total(network) == total
    weights = model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    said = " ".join(str(warning.message) for warning in caught)
    if name == "googlenet":  # its auxiliary heads exist in training only
        assert "61 ReLU calls, in inference 57" in said and "left out: aux1.conv.conv.weight" in said
    else:
        assert not said
    if name == "resnet18":
        assert list(named_sites(network))[:3] == ["relu", "layer1.0.relu", "layer1.0.relu_1"]
        assert list(network.state_dict()) == list(weights)


def test_gates_are_named() -> None:
    with pytest.warns(UserWarning, match="neither linearized nor counted: 2 is Sigmoid"):
        linearize(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sigmoid()), (4,))


class Untraceable(Toy):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(F.relu(x) if x.sum() > -1e9 else x)


class FoldsTheBatch(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv1(x).flatten(0, 1)).sum()


REFUSED = {
    "ReLU6": (
        lambda: torchvision.models.mobilenet_v2(weights=None),
        r"no ReLU .* features\.0\.2 is ReLU6, .* and 29 more",
    ),
    "GELU": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.GELU()), "2 is GELU"),
    "LeakyReLU beside ReLU": (lambda: nn.Sequential(nn.ReLU(), nn.LeakyReLU()), "1 is LeakyReLU"),
    "no ReLU": (lambda: nn.Conv2d(3, 3, 1), "has no ReLU"),
    "wrong input": (lambda: nn.Sequential(nn.Conv2d(5, 3, 1), nn.ReLU()), "does not run on input of 3x32x32"),
    "untraceable": (Untraceable, r"cannot be traced .* \(relu\)"),
    "folded batch": (FoldsTheBatch, "one row per image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_reason(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        linearize(make(), (3, 32, 32))
    assert "\n" not in str(caught.value)


def test_impossible_input_size() -> None:
    with pytest.raises(UserError, match="input size"):
        linearize(built(Modules), (3, 0, 8))


def test_public_names_are_lazy() -> None:
    assert relinearize.linearize is linearize
    assert all(getattr(relinearize, name) is not None for name in relinearize.__all__)
    with pytest.raises(AttributeError, match="no attribute 'linearise'"):
        _ = relinearize.linearise
