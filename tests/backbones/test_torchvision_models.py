"""`backbone=torchvision`: torchvision's classifiers by name, with any number of classes and channels."""

import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from torch import nn

from relinearize.backbones import PixelInput
from relinearize.backbones.torchvision_models import build_classifier
from relinearize.cli import conf_folder
from relinearize.errors import UserError
from relinearize.private_inference.bundle.exporting import export
from relinearize.relu.mask import Mask, relu_total
from relinearize.relu.sites import linearize, site_shapes, to_masked
from relinearize.runs.build import all_relu_network
from relinearize.runs.finished import FinishedRun
from relinearize.runs.pipeline import run

# Small images that each can be exported for: GoogLeNet's pools round up, which a bundle knows no way to say, but do not
# have to at 77 pixels.
SIZES = {"resnet18": 32, "densenet121": 32, "googlenet": 77, "inception_v3": 75, "squeezenet1_1": 32}


def built(model: str, size: int, channels: int = 3, **options) -> nn.Module:
    return build_classifier(model, classes=5, image_size=size, channels=channels, **options)


@pytest.mark.slow
@pytest.mark.parametrize("model", SIZES)
def test_classifiers_are_counted_and_exported(model: str, tmp_path) -> None:
    size = SIZES[model]
    torch.manual_seed(0)
    network = linearize(built(model, size), (3, size, size)).eval()
    total = relu_total(network)
    generator = torch.Generator().manual_seed(1)
    mask = Mask({name: torch.rand(shape, generator=generator) < 0.5 for name, shape in site_shapes(network).items()})
    to_masked(network, mask)
    assert 0 < relu_total(network) == mask.count < total
    bundle = export(PixelInput(network, [0.5] * 3, [0.25] * 3), tmp_path / "bundle", input_size=(3, size, size))
    assert bundle.relus == mask.count


@pytest.mark.slow
def test_relus_of_the_papers_imagenet_network() -> None:
    network = linearize(built("resnet18", 224), (3, 224, 224))
    shapes = list(site_shapes(network).values())
    assert shapes[0] == (64, 112, 112) and shapes[1] == (64, 56, 56) and shapes[-1] == (512, 7, 7)
    assert len(shapes) == 17 and relu_total(network) == 2_308_096


@pytest.mark.slow
def test_vgg_is_counted_at_32_pixels() -> None:
    assert relu_total(linearize(built("vgg11_bn", 32), (3, 32, 32))) == 159_744


@pytest.mark.parametrize("model", ["resnet18", "densenet121", "squeezenet1_1", "regnet_x_400mf"])
def test_grey_images(model: str) -> None:
    network = built(model, 32, channels=1).eval()
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 5)


def test_cifar_stem_keeps_the_resolution() -> None:
    network = linearize(built("resnet18", 32, channels=1, cifar_stem=True), (1, 32, 32))
    assert list(site_shapes(network).values())[:2] == [(64, 32, 32)] * 2
    assert relu_total(network) == 557_056  # as the project's own ResNet-18


def test_auxiliary_heads_are_left_out() -> None:
    for model in ("googlenet", "inception_v3"):
        assert not any("aux" in name.lower() for name, _ in built(model, 96).named_parameters())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet19", {}, r"backbone\.model=resnet19: no classifier of torchvision\.models; close are .*resnet18"),
        ("?", {}, "close are resnet18"),
        ("densenet121", {"cifar_stem": True}, r"backbone\.cifar_stem=true: only ResNets have this stem, densenet121"),
    ],
)
def test_refusals(model: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        built(model, 32, **options)
    assert "\n" not in str(caught.value)


# ---- in runs ---------------------------------------------------------------------------------------------------------

SMALL = (
    "backbone=torchvision", "backbone.cifar_stem=true", "method=random", "dataset.subset=40", "dataset.holdout=0.5",
    "method.teacher.epochs=1", "method.finetune.epochs=1", "method.teacher.batch_size=20", "budget.fraction=0.5",
    "method.finetune.batch_size=20", "trainer.accelerator=cpu", "trainer.progress=none", "logger=none",
)  # fmt: skip


def config(*overrides: str):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", [*SMALL, *overrides])


def weights_of_seven_classes(folder) -> tuple[Path, nn.Module]:
    torch.manual_seed(3)
    given = torchvision.models.resnet18(num_classes=7)
    given.conv1 = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
    torch.save(given.state_dict(), folder / "weights.pt")
    return folder / "weights.pt", given


def test_a_head_for_another_number_of_classes_is_left_out(tmp_path) -> None:
    file, given = weights_of_seven_classes(tmp_path)
    started = all_relu_network(config(f"backbone.weights={file}")).network
    name = "layer4.1.conv2.weight"
    assert torch.equal(started.state_dict()[name], given.state_dict()[name])
    assert started.fc.weight.shape == (10, 512)


@pytest.mark.slow
def test_a_run_from_weights_and_its_evaluation_without_the_file(tmp_path) -> None:
    file, _ = weights_of_seven_classes(tmp_path)
    record, folder = run(config(f"backbone.weights={file}", f"output={tmp_path}"))
    assert record.backbone.name == "torchvision_resnet18" and record.budget.met == record.budget.asked
    file.unlink()
    assert relu_total(FinishedRun.open(folder).network().network) == record.budget.met


@pytest.mark.slow
def test_keys_follow_the_content_of_the_weights(tmp_path) -> None:
    from relinearize.runs.plan import Plan

    for name in ("a", "b"):
        torch.save(built("resnet18", 8, channels=1, cifar_stem=True).state_dict(), tmp_path / f"{name}.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "same.pt")
    keys = [
        Plan.of(config(f"output={tmp_path}", f"backbone.weights={tmp_path / name}.pt")).teacher.key
        for name in ("a", "b", "same")
    ]
    assert keys[0] == keys[2] != keys[1]


def test_weights_that_do_not_fit_are_named(tmp_path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pt")
    with pytest.raises(UserError, match=r"resnet34\.pt does not fit the backbone"):
        all_relu_network(config(f"backbone.weights={tmp_path / 'resnet34.pt'}"))
