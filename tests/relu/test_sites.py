"""linearize() on networks of every style: modules, functional, in-place, shared modules, torchvision's."""

import copy
import io
import pickle
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn
from torch.nn.utils import prune

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


class MadeInForward(Toy):
    def forward(self, x: Tensor) -> Tensor:
        x = nn.ReLU(inplace=True)(self.norm(self.conv1(x)))
        return self.head(nn.ReLU()(self.conv2(x) + x))


class OptionalArguments(Toy):
    """As networks for distillation have it, with decisions by the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor, is_feat: bool = False, *, preact: bool = False) -> Tensor:
        images, _, height, width = x.size()
        before = self.norm(self.conv1(x))
        x = F.relu(before)
        if height == 64 or x.shape[1:] != before.shape[1:]:
            x = self.pool(x)
        x = F.relu(self.conv2(x).view(images, -1)).view(images, 4, height, width)
        if is_feat:
            return (before if preact else x), self.head(x)
        return self.head(x)


class ByHand(Toy):
    """Functions that are told the mode of their module."""

    def __init__(self) -> None:
        super().__init__()
        del self.norm
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("variance", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.batch_norm(self.conv1(x), self.mean, self.variance, training=self.training))
        x = F.batch_norm(self.conv2(x), self.mean, self.variance, None, None, self.training, 0.2)
        return self.head(F.dropout2d(F.relu(x), training=self.training))


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.5)) if self.training else x


class WithDropPath(Toy):
    """The part that asks for its mode is a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        return self.head(F.relu(x[:, :4] + self.drop(self.norm(self.conv2(x)))))


class Reparametrised(Toy):
    """Weights that hooks compute from others."""

    def __init__(self) -> None:
        super().__init__()
        prune.random_unstructured(self.conv1, "weight", 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv2 = nn.utils.weight_norm(self.conv2)
        self.linear = nn.utils.spectral_norm(self.linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv2(F.relu(self.norm(self.conv1(x))))))


class Parametrised(Functional):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.conv1)
        nn.utils.parametrizations.spectral_norm(self.conv2)


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
    MadeInForward: (["relu", "relu_1"], 2 * 256),
    OptionalArguments: (["relu", "relu_1"], 2 * 256),
    ByHand: (["relu", "relu_1"], 2 * 256),
    WithDropPath: (["relu", "relu_1"], 2 * 256),
    Reparametrised: (["relu", "relu_1"], 2 * 256),
    Parametrised: (["relu", "relu_1", "relu_2"], 3 * 256),
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


def test_wrapped_networks_are_taken_out() -> None:
    model = built(Functional)
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        network = linearize(wrapped, SIZE)
        assert list(network.state_dict()) == list(model.state_dict())
        assert list(named_sites(network)) == EXPECTED[Functional][0]


def test_vmap() -> None:
    network, x = linearize(built(Modules), SIZE).eval(), torch.randn(3, *SIZE)
    for site in named_sites(network).values():
        site.mask.bernoulli_(0.5)
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


class AsksForItsMode(Toy):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        if self.training:
            x = x + torch.randn_like(x)
        return self.head(x)


class Scripted(Toy):
    """TorchScript, which no trace enters."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.part = torch.jit.script(nn.Sequential(nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv2(self.part(self.conv1(x)))))


class Applies(nn.Module):
    """One ReLU, and one function of a convolution's outputs."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.relu, self.function = nn.Conv2d(3, 4, 3), nn.ReLU(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.relu(self.conv(x)) - 1)


def into_buffer(y: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    out[:, :2] = y[:, :2]
    return out.clamp(min=0)


class OwnReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        return y.clamp(min=0)


NONLINEAR = {
    "maximum": lambda y: torch.maximum(y, torch.zeros(())),
    "maximum of two": lambda y: torch.max(y, y.flip(1)),
    "where": lambda y: torch.where(y > 0, y, 0),
    "leaky in disguise": lambda y: torch.lerp(y, y.abs(), 0.4),
    "product with a comparison": lambda y: y * (y > 0),
    "masked_fill": lambda y: y.masked_fill(y < 0, 0),
    "assignment": lambda y: y.index_put((y < 0,), torch.zeros(())),
    "clip_": lambda y: y.clip_(0),
    "clamp_": lambda y: torch.clamp_(y, 0),
    "clamp_min": lambda y: y.clamp_min(0),
    "threshold": lambda y: torch.threshold(y, 0.0, 0.0),
    "threshold_": lambda y: F.threshold_(y, 0.0, 0.0),
    "selu": torch.selu,
    "celu": torch.celu,
    "prelu": lambda y: torch.prelu(y, torch.full((1,), 0.2)),
    "rrelu": torch.rrelu,
    "hardswish": F.hardswish,
    "glu": lambda y: F.glu(y, 1),
    "logsigmoid": F.logsigmoid,
    "abs": lambda y: (y + y.abs()) / 2,
    "sign": lambda y: y * y.sign(),
    "relu6": F.relu6,
    "floor": torch.floor,
    "sine": torch.sin,
    "through a buffer": into_buffer,
    "an autograd function": OwnReLU.apply,
}
LINEAR_OR_COUNTED_OTHERWISE = {
    "polynomial": lambda y: y * y + y**2 - 2 * y / 3 + y.square(),
    "pooling": lambda y: F.max_pool2d(y, 2) + F.avg_pool2d(y, 2),
    "statistics": lambda y: F.layer_norm(F.group_norm(y, 2), y.shape[1:]) + y.mean((2, 3), keepdim=True),
    "shapes": lambda y: torch.cat([y.flip(2), y[:, :1].expand_as(y)], 1).transpose(2, 3),
    "interpolation": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
    "given masks": lambda y: torch.where(torch.arange(6) > 2, y, 0).masked_fill(torch.arange(6) > 4, 1),
    "constants": lambda y: y * torch.where(torch.arange(4.0).view(4, 1, 1) > 1, 1.0, 0.5) + y.new_ones(4, 1, 1).relu(),
}


@pytest.mark.parametrize("case", NONLINEAR)
def test_no_other_nonlinearity_stays_uncounted(case: str) -> None:
    with pytest.raises(UserError, match=r"activations that are no ReLU .* the network itself is using"):
        linearize(Applies(NONLINEAR[case]), SIZE)


def test_operators_of_torch_that_are_relus_do_not_stay_uncounted() -> None:
    for function in (torch.ops.aten.relu, torch.ops.aten.relu_.default):
        with pytest.raises(UserError, match="runs 2 ReLUs, of which only 1 are calls"):
            linearize(Applies(function), SIZE)


@pytest.mark.parametrize("case", LINEAR_OR_COUNTED_OTHERWISE)
def test_what_is_linear_passes_without_a_word(case: str, recwarn: pytest.WarningsRecorder) -> None:
    assert list(named_sites(linearize(Applies(LINEAR_OR_COUNTED_OTHERWISE[case]), SIZE))) == ["relu"]
    assert not [warning for warning in recwarn if warning.category is UserWarning]


class FrozenStem(Toy):
    """Without gradients in the first layer; the outputs are those of a network with them."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.relu(self.conv1(x))
        return self.head(F.relu(self.conv2(x)))


class RarelyRandom(Toy):
    """In training something else than in inference, but seldom, and by Python's random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        return self.head(x if self.training and random.random() < 1e-9 else F.relu(self.conv2(x)))


class TwoStreams(Modules):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(torch.stack([self.conv1(x), self.conv1(x.flip(3))])).sum(0))


class ThroughNumpy(Modules):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.conv1(x))
        return self.head(torch.from_numpy(np.maximum(x.detach().numpy() - 0.1, 0)))


def with_another_forward() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    layer = model[0]
    layer.forward = lambda x: F.conv2d(x, layer.weight, layer.bias) / 2
    return model


class Branches(Modules):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(self.first(x) if x.mean() > -1e9 else self.second(x))


@dataclass
class Output:
    logits: Tensor
    features: Tensor


class WithOutput(Functional):
    def forward(self, x: Tensor) -> Output:
        return Output(super().forward(x), x)


class WithScale(Toy):
    """A ReLU of a weight, which costs nothing in inference."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv1(x)) * F.relu(self.scale))


def test_what_users_networks_have_besides() -> None:
    for kind, sites in ((WithOutput, 3), (WithScale, 1)):
        assert len(named_sites(linearize(built(kind), SIZE))) == sites
    with pytest.warns(UserWarning, match="do not run on a random image .* second"):
        assert list(named_sites(linearize(built(Branches), SIZE))) == ["first"]
    with pytest.warns(UserWarning, match="is using a norm"):
        linearize(Applies(lambda y: F.normalize(y.mean((2, 3)))), SIZE)


@pytest.mark.parametrize("activation", ["relu", nn.ReLU()])
def test_torchs_fused_inference_of_transformers_does_not_pass_the_sites_by(activation: str | nn.Module) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), layer).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = linearize(model, SIZE)
    x = torch.randn(2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x))
        for site in named_sites(network).values():
            site.mask.zero_()
        assert not torch.allclose(network(x), model(x), atol=1e-3)


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
    "another network in training": (AsksForItsMode, "in the network itself, `self.training` decides"),
    "no gradients in a part": (FrozenStem, "outputs, gradients or buffers differ"),
    "seldom another network in training": (RarelyRandom, "in the network itself, `self.training` decides"),
    "an axis before the batch": (TwoStreams, "one row per image"),
    "numpy": (ThroughNumpy, "the network itself leaves torch by numpy"),
    "a forward that holds the original": (with_another_forward, "the forward of 0 was replaced by a function"),
    "TorchScript": (Scripted, "runs 2 ReLUs, of which only 1"),
    "random in eval mode": (lambda: Applies(lambda y: F.dropout(y)), "differ from run to run .* uses"),
    "lazy layers": (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()), "0 is a lazy layer"),
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
