"""Which convolutions of a network are exchanged, and that a training is the same with them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import fx, nn

import relinearize
from relinearize.backbones import PixelInput, build_backbone
from relinearize.convolution import on_winograd, winograd
from relinearize.convolution.building import library
from relinearize.data.loaders import TrainLoader
from relinearize.data.training_images import ResidentImages
from relinearize.errors import UserError
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.snl import SNLSearch
from relinearize.relu.sites import to_sloped
from relinearize.training.fit import fit
from relinearize.training.settings import TrainerSettings

try:
    library()
except UserError as error:  # a machine without a compiler
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(autouse=True)
def on_a_processor_that_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """On others trainer.convolutions=auto leaves all to torch; the library gives the same there."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the inputs that Winograd's convolutions get."""
    seen: list[torch.Size] = []
    convolution = winograd.convolution

    def watched(kind: int, x: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        seen.append(x.shape)
        return convolution(kind, x, *rest, **named)

    monkeypatch.setattr(winograd, "convolution", watched)
    return seen


def resnet(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet8", classes=10, image_size=16, width=width).eval()


def test_a_network_answers_alike_and_is_itself_again_afterwards(calls: list) -> None:
    network, x = resnet(), torch.randn(4, 3, 16, 16)
    expected, before = network(x), copy.deepcopy(network.state_dict())
    with on_winograd(network):
        found = network(x)
    assert len(calls) == sum(module.in_channels >= winograd.LANES for module in convolutions(network))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(network(x), expected)
    assert network.state_dict().keys() == before.keys()
    assert not any("_conv_forward" in vars(module) for module in network.modules())


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]


def test_it_is_itself_again_after_an_error() -> None:
    network = resnet()
    with pytest.raises(KeyError), on_winograd(network):
        raise KeyError
    assert not any("_conv_forward" in vars(module) for module in network.modules())


def test_copies_and_traces_of_a_switched_network(calls: list) -> None:
    """A copy convolves with its own weights; torch.fx sees the modules it always saw."""
    network, x = resnet(), torch.randn(2, 3, 16, 16)
    with on_winograd(network):
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.conv1.weight.mul_(2), other.get_submodule("fc" if hasattr(other, "fc") else "linear").weight.zero_()
        assert not torch.equal(other(x), network(x))
        nodes = fx.Tracer().trace(network).nodes
    assert {type(network.get_submodule(node.target)) for node in nodes if node.op == "call_module"} >= {nn.Conv2d}
    assert calls


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(16, 16, 3),  # no padding
        nn.Conv2d(16, 16, 1, padding=1),
        nn.Conv2d(16, 16, 5, padding=1),
        nn.Conv2d(16, 16, 3, stride=3, padding=1),
        nn.Conv2d(16, 16, 3, stride=(1, 2), padding=1),
        nn.Conv2d(16, 16, 3, padding="same"),
        nn.Conv2d(16, 16, 3, padding=1, dilation=2),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(16, 16, 3, padding=1),
        nn.Conv3d(16, 16, 3, padding=1),
    ],
    ids=str,
)
def test_other_convolutions_stay_torch_s(module: nn.Module) -> None:
    with on_winograd(module):
        assert "_conv_forward" not in vars(module)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_with_bias(stride: int, calls: list) -> None:
    module, x = nn.Conv2d(16, 32, 3, stride=stride, padding=1), torch.randn(2, 16, 7, 9)
    expected = module(x)
    with on_winograd(module):
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)
    assert calls == [x.shape]


# ---- in a training ---------------------------------------------------------------------------------------------------


def search() -> SNLSearch:
    """A few steps of SNL's search on 16 x 16 images."""
    network = PixelInput(relinearize.linearize(resnet().train(), (3, 16, 16)), (0.5,) * 3, (0.25,) * 3)
    teacher = frozen_copy(network)
    to_sloped(network.network)
    stage = SNLSearch(
        network, teacher, budgets=[1], on_snapshot=lambda snapshot: None, epochs=1, batch_size=16, learning_rate=1e-3
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 16, 16, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (64,), generator=generator)
    loader = TrainLoader(ResidentImages(images, labels, padding=2), 16, seed=0, flip=True, parts=stage.segments)
    stage.use(train_loader=loader, validation_loader=None, precision="32", seed=0)
    return stage


def trained(folder: Path, **changed: object) -> dict[str, torch.Tensor]:
    settings = {
        "accelerator": "cpu",
        "precision": "32",
        "compile": False,
        "checkpoint_seconds": 1e9,
        "progress": "none",
    }
    stage = search()
    fit(stage, TrainerSettings.resolve(**settings | changed), folder / "last.ckpt")
    return {name: tensor.clone() for name, tensor in stage.network.state_dict().items()}


def test_a_training_with_them_is_that_with_torch_s_up_to_rounding(tmp_path: Path, calls: list) -> None:
    found = trained(tmp_path / "winograd")
    assert calls
    del calls[:]
    expected = trained(tmp_path / "torch", convolutions="torch")
    assert not calls
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-3)
    again = trained(tmp_path / "again")
    assert all(torch.equal(again[name], tensor) for name, tensor in found.items())


def test_a_loss_that_is_differentiated_twice_is_refused(tmp_path: Path, calls: list, monkeypatch) -> None:
    real = SNLSearch.loss

    def penalised(stage, images, labels):
        loss, metrics = real(stage, images.requires_grad_(), labels)
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        return loss + gradient.square().sum(), metrics

    monkeypatch.setattr(SNLSearch, "loss", penalised)
    with pytest.raises(UserError, match=r"^stage search: .* give trainer\.convolutions=torch$"):
        trained(tmp_path)
    assert calls


@pytest.mark.parametrize("changed", [{"precision": "bf16"}, {"channels_last": False}])
def test_auto_leaves_other_trainings_to_torch(tmp_path: Path, calls: list, changed: dict) -> None:
    trained(tmp_path, **changed)
    assert not calls
