"""What linearize() refuses, warns of, or lets pass: other nonlinearities, and networks that no trace follows."""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from toy_networks import SIZE, Functional, Modules, Toy, built

from relinearize.errors import UserError
from relinearize.relu.sites import linearize, named_sites


def test_gates_are_named() -> None:
    with pytest.warns(UserWarning, match="neither linearized nor counted: 2 is Sigmoid"):
        linearize(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sigmoid()), (4,))


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_gates_of_recurrent_layers_are_named(layer: type[nn.RNNBase]) -> None:
    """torch computes an LSTM by one operator of its own, in which no sigmoid is seen."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu, self.recurrent = nn.Linear(4, 4), nn.ReLU(), layer(4, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.recurrent(self.relu(self.first(x)))[0][:, -1]

    with pytest.warns(UserWarning, match="neither linearized nor counted: recurrent is using"):
        linearize(Recurrent(), (3, 4))


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


class ThreeStreams(Modules):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        return self.head(self.first(torch.stack([y, y.flip(3), y.flip(2)])).sum(0))


class ThroughNumpy(Modules):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.conv1(x))
        return self.head(torch.from_numpy(np.maximum(x.detach().numpy() - 0.1, 0)))


class WrittenOver(Modules):
    """Weights, gradients and all are right, but who keeps what the second ReLU was given would read something else."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x += self.conv2(self.second(x))
        return self.head(self.first(x))


class WrittenOverByCall(Toy):
    """What a trace keeps as it is, unlike +=."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.head(x.add_(self.conv2(F.relu(x))))


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


class AddsInPlace(Toy):
    """The traced network has + where += stands, and no ReLU in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x += self.conv2(F.relu(x))
        return self.head(F.relu_(x))


def test_what_users_networks_have_besides() -> None:
    for kind, sites in ((WithOutput, 3), (WithScale, 1), (AddsInPlace, 2), (WrittenOver, 2)):
        assert len(named_sites(linearize(built(kind), SIZE))) == sites
    with pytest.warns(UserWarning, match="do not run on a random image .* second"):
        assert list(named_sites(linearize(built(Branches), SIZE))) == ["first"]
    with pytest.warns(UserWarning, match="is using pow"):  # of an exponent for each channel
        linearize(Applies(lambda y: y ** torch.full((4, 1, 1), 2.0)), SIZE)
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
    "Hardswish": (
        lambda: torchvision.models.mobilenet_v3_small(weights=None),
        "no ReLU and cannot be linearized: .* is Hardswish",
    ),
    "SiLU": (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.SiLU()), "no ReLU and cannot be linearized: 1 is SiLU"),
    "LeakyReLU beside ReLU": (lambda: nn.Sequential(nn.ReLU(), nn.LeakyReLU()), "1 is LeakyReLU"),
    "no ReLU": (lambda: nn.Conv2d(3, 3, 1), "has no ReLU"),
    "wrong input": (lambda: nn.Sequential(nn.Conv2d(5, 3, 1), nn.ReLU()), "does not run on input of 3x32x32"),
    "untraceable": (Untraceable, r"cannot be traced .* \(relu\)"),
    "folded batch": (FoldsTheBatch, "one row per image"),
    "another network in training": (AsksForItsMode, "in the network itself, `self.training` decides"),
    "no gradients in a part": (FrozenStem, "outputs, gradients or buffers differ"),
    "seldom another network in training": (RarelyRandom, "in the network itself, `self.training` decides"),
    "an axis before the batch": (TwoStreams, "one row per image"),
    "an axis of three": (ThreeStreams, "one row per image"),
    "numpy": (ThroughNumpy, "the network itself leaves torch by numpy"),
    "written over": (WrittenOverByCall, r"the input of relu is written over after its ReLU; write x = x \+"),
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
