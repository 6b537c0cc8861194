"""ReLUs per site and weights of the backbones, against the official code's (counted there by running it)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relinearize.backbones import BACKBONES, build_backbone
from relinearize.errors import UserError
from relinearize.relu.mask import relu_counts
from relinearize.relu.sites import linearize

# Per site at 32 pixels, all ReLUs ("senet"); ResNets and WRN have four times as many at 64.
RESNET18 = [65_536] * 5 + [32_768] * 4 + [16_384] * 4 + [8_192] * 4
RESNET34 = [65_536] * 7 + [32_768] * 8 + [16_384] * 12 + [8_192] * 6
WRN22_8 = [16_384] + [131_072] * 6 + [65_536] * 6 + [32_768] * 6
VGG16_32 = [65_536] * 2 + [32_768] * 2 + [16_384] * 3 + [8_192] * 6
VGG16_64 = [262_144] * 2 + [131_072] * 2 + [65_536] * 3 + [32_768] * 3 + [8_192] * 3


def fourfold(counts: list[int]) -> list[int]:
    return [4 * count for count in counts]


TABLE = [
    ("resnet18", 32, "senet", RESNET18, 557_056),
    ("resnet18", 32, "snl", RESNET18[1:], 491_520),
    ("resnet18", 64, "senet", fourfold(RESNET18), 2_228_224),
    ("resnet18", 64, "snl", fourfold(RESNET18[1:]), 1_966_080),
    ("resnet34", 32, "senet", RESNET34, 966_656),
    ("resnet34", 32, "snl", RESNET34[1:], 901_120),
    ("resnet34", 64, "senet", fourfold(RESNET34), 3_866_624),
    ("resnet34", 64, "snl", fourfold(RESNET34[1:]), 3_604_480),
    ("wrn22_8", 32, "senet", WRN22_8, 1_392_640),
    ("wrn22_8", 32, "snl", WRN22_8[:-1], 1_359_872),
    ("wrn22_8", 64, "senet", fourfold(WRN22_8), 5_570_560),
    ("wrn22_8", 64, "snl", fourfold(WRN22_8[:-1]), 5_439_488),
    ("vgg16_bn", 32, "senet", VGG16_32, 294_912),
    ("vgg16_bn", 32, "snl", VGG16_32, 294_912),
    ("vgg16_bn", 64, "senet", VGG16_64, 1_105_920),
    ("vgg16_bn", 64, "snl", VGG16_64, 1_105_920),
]


# At 64 pixels these take seconds each, and all but VGG16 have what they have at 32, four times.
LARGE = {("resnet18", 64), ("resnet34", 64), ("wrn22_8", 64), ("resnet34", 32)}


@pytest.mark.parametrize(
    ("name", "size", "convention", "sites", "total"),
    [pytest.param(*row, marks=pytest.mark.slow if row[:2] in LARGE else ()) for row in TABLE],
)
def test_relus_per_site(name: str, size: int, convention: str, sites: list[int], total: int) -> None:
    model = build_backbone(name, classes=10, image_size=size, convention=convention)
    network = linearize(model, (3, size, size))
    assert list(relu_counts(network).values()) == sites and sum(sites) == total
    assert type(network) is type(model)


def test_the_activated_tensor_feeds_wrns_wide_shortcuts() -> None:
    block = build_backbone("wrn22_8", classes=2, image_size=8, width=2).block2[0].eval()
    seen = []
    block.shortcut.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    block.relu1.register_forward_hook(lambda _, __, output: seen.append(output))
    block(torch.randn(2, 16, 8, 8))
    assert torch.equal(seen[1], seen[0][:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("name", "weights"), [("resnet18", 11_220_132), ("wrn22_8", 17_204_276), ("resnet34", 21_328_292)]
)
def test_weights_for_cifar100(name: str, weights: int) -> None:
    model = build_backbone(name, classes=100, image_size=32, convention="snl")
    assert sum(weight.numel() for weight in model.parameters()) == weights


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("convention", ["snl", "senet"])
def test_each_relu_is_a_module_called_once(name: str, convention: str) -> None:
    size = 8
    model = build_backbone(name, classes=3, image_size=size, width=2, convention=convention, channels=1)
    calls: list[nn.Module] = []
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        relu.register_forward_hook(lambda module, *_: calls.append(module))
    assert model(torch.randn(2, 1, size, size)).shape == (2, 3)
    assert len(calls) == len(relus) and set(calls) == set(relus)


@pytest.mark.parametrize(("size", "pooled", "pool"), [(32, 3, "max"), (64, 4, "max"), (32, 3, "average")])
def test_vgg16_is_the_released_function(size: int, pooled: int, pool: str) -> None:
    """Pools after the first blocks, at 32 pixels three of them, and the mean over what block 5 puts out."""
    model = build_backbone("vgg16_bn", classes=3, image_size=size, width=2, pool=pool).eval()
    pooling = {"max": F.max_pool2d, "average": F.avg_pool2d}[pool]
    images = torch.randn(2, 3, size, size)
    state, x = model.state_dict(), images
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for number in range(1, convolutions + 1):
            x = F.conv2d(x, state[f"features.conv{block}_{number}.weight"], padding=1)
            norm = {key: state[f"features.bn{block}_{number}.{key}"] for key in ("running_mean", "running_var")}
            x = F.relu(F.batch_norm(x, **norm))
        x = pooling(x, 2) if block <= pooled else x
    assert x.shape == (2, 16, 4, 4)
    torch.testing.assert_close(model(images), F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"]))


def test_any_image_size_works() -> None:
    model = build_backbone("resnet18", classes=3, image_size=40, width=2).eval()
    assert model(torch.randn(2, 3, 40, 24)).shape == (2, 3)
    assert build_backbone("vgg16_bn", classes=3, image_size=48, width=2).eval()(torch.randn(1, 3, 48, 48)).shape == (
        1,
        3,
    )


def test_width_scales_the_count() -> None:
    model = build_backbone("resnet18", classes=10, image_size=32, width=16)
    assert sum(relu_counts(linearize(model, (3, 32, 32))).values()) == 139_264


def test_fresh_weights_keep_the_signal() -> None:
    for name in BACKBONES:
        model = build_backbone(name, classes=10, image_size=32, width=8 if name != "wrn22_8" else 2)
        scores = model(torch.randn(8, 3, 32, 32)).detach()
        assert bool(scores.isfinite().all()) and 1e-3 < float(scores.std()) < 10


def deviations(name: str, initialisation: str) -> tuple[float, float, bool]:
    """Of a 3x3 convolution from 32 to 64 channels and of the linear layer; whether its bias is 0."""
    torch.manual_seed(0)
    width = {"wrn22_8": 4, "vgg16_bn": 32}.get(name, 32)
    model = build_backbone(name, classes=50, image_size=32, width=width, initialisation=initialisation)
    shape = (64, 32, 3, 3)
    convolution = next(weight for weight in model.parameters() if weight.shape == shape)
    return convolution.std().item(), model.linear.weight.std().item(), not model.linear.bias.any()


@pytest.mark.parametrize(
    ("name", "initialisation", "fan", "linear", "zero_bias"),
    [
        ("resnet8", "he", 64, 0.01, True),
        ("resnet8", "snl", 32, (2 / 128) ** 0.5, False),  # He's, of 128 inputs
        ("resnet8", "senet", 64, (1 / 3 / 128) ** 0.5, False),  # U(-1, 1) / sqrt(128)
        ("wrn22_8", "snl", 64, (1 / 3 / 128) ** 0.5, True),
        ("wrn22_8", "senet", 64, (1 / 3 / 128) ** 0.5, True),
        ("vgg16_bn", "senet", 64, 0.01, True),
    ],
)
def test_initialisations_are_the_official_codes(name, initialisation, fan, linear, zero_bias) -> None:
    convolution, found, zero = deviations(name, initialisation)
    assert convolution == pytest.approx((2 / (9 * fan)) ** 0.5, rel=0.03)
    assert found == pytest.approx(linear, rel=0.05) and zero == zero_bias


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet20"}, r"backbone\.name=resnet20 is unknown; valid: resnet8, resnet18"),
        ({"convention": "deepreduce"}, r"backbone\.convention=deepreduce is unknown; valid: snl, senet"),
        ({"width": 0}, r"backbone\.width=0: must be an integer >= 1"),
        ({"width": 1.5}, r"backbone\.width=1.5: .* integer"),
        ({"classes": -1}, "classes=-1: .* integer"),
        ({"name": "vgg16_bn", "image_size": 7}, "image size of vgg16_bn=7: must be an integer >= 8"),
        ({"image_size": 0}, "image size of resnet18=0: must be an integer >= 1"),
        ({"initialisation": "zeros"}, r"backbone\.initialisation=zeros is unknown; valid: he, snl, senet"),
        ({"name": "vgg16_bn", "pool": "mean"}, r"backbone\.pool=mean is unknown; valid: max, average"),
        ({"pool": "average"}, r"backbone\.pool=average: resnet18 has no max-pools; only vgg16_bn has"),
        ({"name": "vgg16_bn", "initialisation": "snl"}, r"backbone\.initialisation=snl: .* give he or senet"),
    ],
)
def test_refusals(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(**{"name": "resnet18", "classes": 10, "image_size": 32, **changes})
