"""Small networks that call their ReLUs in every style, and the sites that `linearize` finds in each."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

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


def with_statistics(network: nn.Module, lowest: float = 0.5) -> nn.Module:
    """The same network as after a training: batch norms that do something, with factors from `lowest` to 1.5."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, lowest, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return network


def built(kind: type, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_()
    return model
