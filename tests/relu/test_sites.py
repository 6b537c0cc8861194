"""linearize() on networks of every style: modules, functional, in-place, shared modules, torchvision's."""

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from toy_networks import (
    EXPECTED,
    SIZE,
    CalledTwice,
    Functional,
    MixedNames,
    Modules,
    Parametrised,
    Reparametrised,
    TwoNames,
    built,
)

import relinearize
from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU, SlopedReLU
from relinearize.relu.mask import Mask, relu_counts, relu_total
from relinearize.relu.sites import linearize, named_sites, site_shapes, to_masked, to_replaced, to_sloped


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
    if kind is not Reparametrised:
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())

    assert network.state_dict().keys() == before.keys()
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
    x = torch.randn(4, *SIZE)
    network.norm.eval()
    assert network.dropout.training and not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("kind", EXPECTED)
def test_linearized_networks_are_copied_pickled_and_traced_again(kind: type) -> None:
    network, x = linearize(built(kind), SIZE), torch.randn(3, *SIZE)
    for site in named_sites(network).values():
        site.mask.bernoulli_(0.5)
    network.train()(x).sum().backward()  # weights that hooks compute now have a history
    others = [copy.deepcopy(network), fx.symbolic_trace(network.eval())]
    if kind is not Parametrised:  # torch refuses to pickle these
        others += [pickle.loads(pickle.dumps(network)), saved_and_loaded(network)]
    for other in others:
        assert torch.equal(other.eval()(x), network.eval()(x))
    results = []
    for each in (network, others[0], *others[2:]):  # the traced one shares its modules
        torch.manual_seed(3)
        results.append(each.train()(x))
    assert all(torch.equal(result, results[0]) for result in results)


def saved_and_loaded(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.slow
def test_wrapped_networks_are_taken_out() -> None:
    model = built(Functional)
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        network = linearize(wrapped, SIZE)
        assert list(network.state_dict()) == list(model.state_dict())
        assert list(named_sites(network)) == EXPECTED[Functional][0]


def test_masks_and_sites_of_wrapped_networks_have_the_networks_names() -> None:
    network = linearize(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), (1, 2, 2))
    wrapped = nn.DataParallel(network)
    kept = {"1": torch.zeros(2, 2, 2, dtype=torch.bool)}
    Mask(kept).apply(wrapped)
    assert list(Mask.of(wrapped)) == ["1"] and relu_total(network) == 0
    to_sloped(wrapped)
    assert isinstance(network[1], SlopedReLU)
    to_masked(wrapped, Mask(kept))
    assert isinstance(network[1], MaskedReLU)


class WithConstants(nn.Module):
    """Its ReLU is a function, so it is traced; it names tensors that are in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = torch.tensor(2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x) * self.scale) * torch.tensor(0.5)


def test_traced_networks_take_the_weights_of_the_model() -> None:
    model = WithConstants()
    network = linearize(model, (4,))
    assert list(network.state_dict()) == list(copy.deepcopy(network).state_dict()) == list(model.state_dict())
    other = WithConstants()
    network.load_state_dict(other.state_dict())
    x = torch.rand(3, 4)
    torch.testing.assert_close(copy.deepcopy(network)(x), other(x))


def test_networks_without_weights_are_refused() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(UserError, match=r"^0 is on the device meta, without weights: load them first$"):
        linearize(empty, (4,))


def test_networks_that_keep_past_activations_are_refused() -> None:
    class Remembering(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.past = [x * self.weight]
            return torch.relu(self.past[0])

    remembering = Remembering()
    remembering.weight = nn.Parameter(torch.ones(4))
    remembering(torch.rand(2, 4))
    with pytest.raises(UserError, match=r"cannot be copied .* past activations$"):
        linearize(remembering, (4,))


def test_networks_that_cannot_be_copied_are_refused() -> None:
    model = built(Functional)
    model.lock = threading.Lock()
    with pytest.raises(UserError, match=r"the network cannot be copied .*lock.* keep files, locks and writers out"):
        linearize(model, SIZE)


def test_vmap() -> None:
    network, x = linearize(built(Modules), SIZE).eval(), torch.randn(3, *SIZE)
    for site in named_sites(network).values():
        site.mask.bernoulli_(0.5)
    name, (channels, *sides) = next(iter(site_shapes(network).items()))
    to_replaced(network, {f"{name}.coefficients": torch.randn(3, channels, *[1 for _ in sides])})
    one_by_one = torch.func.vmap(lambda image: network(image.unsqueeze(0)).squeeze(0))(x)
    torch.testing.assert_close(one_by_one, network(x))
    weights = dict(network.named_parameters())

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(network, weights, image.unsqueeze(0)).square().sum()

    per_image = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    network(x).square().sum().backward()
    for name, weight in weights.items():
        torch.testing.assert_close(per_image[name].sum(0), weight.grad, rtol=1e-4, atol=1e-5)


def test_sites_change_their_kind_and_survive_copies() -> None:
    network = linearize(built(CalledTwice), SIZE)
    x = torch.randn(2, *SIZE)
    network.eval()
    expected, shapes = network(x), site_shapes(network)
    to_sloped(network)
    assert all(isinstance(site, SlopedReLU) and bool((site.alpha == 1).all()) for site in named_sites(network).values())
    assert torch.equal(network(x), expected) and site_shapes(network) == shapes
    for counted in (relu_counts, Mask.of):
        with pytest.raises(UserError, match="has slopes"):
            counted(network)

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


def test_public_names_are_lazy() -> None:
    assert relinearize.linearize is linearize
    assert all(getattr(relinearize, name) is not None for name in relinearize.__all__)
    with pytest.raises(AttributeError, match="no attribute 'linearise'"):
        _ = relinearize.linearise
