"""The networks, written with nn.ReLU modules only, each called once; they know nothing of masks."""

from collections.abc import Callable

from torch import nn

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.initialisation import INITIALISATIONS, initialise_as_released
from relinearize.backbones.resnet import ResNet
from relinearize.backbones.vgg import POOLS, VGG
from relinearize.backbones.wide_resnet import WideResNet
from relinearize.errors import UserError, check_choice

__all__ = ["BACKBONES", "CONVENTIONS", "PixelInput", "build_backbone"]

CONVENTIONS = ("snl", "senet")


def resnet8(classes: int, image_size: int, width: int | None, convention: str, channels: int) -> nn.Module:
    """Three stages of one block each, 16-32-64 channels: for tests and small images."""
    return ResNet((1, 1, 1), width or 16, classes, channels, stem_relu=convention == "senet")


def resnet18(classes: int, image_size: int, width: int | None, convention: str, channels: int) -> nn.Module:
    """64-128-256-512 channels; 491,520 (snl) or 557,056 (senet) ReLUs at 32 pixels."""
    return ResNet((2, 2, 2, 2), width or 64, classes, channels, stem_relu=convention == "senet")


def resnet34(classes: int, image_size: int, width: int | None, convention: str, channels: int) -> nn.Module:
    """64-128-256-512 channels; 901,120 (snl) or 966,656 (senet) ReLUs at 32 pixels."""
    return ResNet((3, 4, 6, 3), width or 64, classes, channels, stem_relu=convention == "senet")


def wrn22_8(classes: int, image_size: int, width: int | None, convention: str, channels: int) -> nn.Module:
    """128-256-512 channels (width 16 times 8); 1,359,872 (snl) or 1,392,640 (senet) ReLUs at 32 pixels."""
    return WideResNet(22, 8, width or 16, classes, channels, final_relu=convention == "senet")


def vgg16_bn(
    classes: int, image_size: int, width: int | None, convention: str, channels: int, pool: str = "max"
) -> nn.Module:
    """13 convolutions; 294,912 ReLUs at 32 pixels, 1,105,920 at 64, in both conventions. pool: "max" or "average"."""
    return VGG(width or 64, classes, channels, image_size, pool)


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet8": resnet8,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "wrn22_8": wrn22_8,
    "vgg16_bn": vgg16_bn,
}


def build_backbone(
    name: str,
    *,
    classes: int,
    image_size: int,
    width: int | None = None,
    convention: str = "senet",
    channels: int = 3,
    initialisation: str = "he",
    pool: str = "max",
) -> nn.Module:
    """A backbone of `BACKBONES` with fresh weights, for `channels` x `image_size` x `image_size` pixels.

    `width`: channels of the first stage (base channels for wrn22_8, times 8 in its stages); None is the papers' width.
    `convention`: which ReLUs exist, see CONVENTIONS. `initialisation`: "he", or that of the official code "snl" or
    "senet" (see initialisation.py). `pool`: "max", or "average" in vgg16_bn. Raises UserError for unknown names and
    invalid sizes.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone.name={name} is unknown; give one of {', '.join(BACKBONES)}")
    if convention not in CONVENTIONS:
        raise UserError(f"backbone.convention={convention} is unknown; give one of {', '.join(CONVENTIONS)}")
    check_choice("backbone.initialisation", initialisation, INITIALISATIONS)
    if (name, initialisation) == ("vgg16_bn", "snl"):
        raise UserError("backbone.initialisation=snl: SNL's code has no vgg16_bn with masks; give he or senet")
    check_choice("backbone.pool", pool, tuple(POOLS))
    if pool != "max" and name != "vgg16_bn":
        raise UserError(f"backbone.pool={pool}: {name} has no max-pools; only vgg16_bn has")
    for key, value in {"backbone.width": width, "classes": classes, "channels": channels}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{key}={value}: backbone {name} needs an integer >= 1")
    smallest = 8 if name == "vgg16_bn" else 1  # three halvings
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < smallest:
        raise UserError(
            f"image size {image_size} is too small for backbone {name}; it needs at least {smallest} pixels"
        )
    pools = {"pool": pool} if name == "vgg16_bn" else {}
    network = BACKBONES[name](classes, image_size, width, convention, channels, **pools)
    if initialisation != "he" and name != "vgg16_bn":
        initialise_as_released(network, initialisation, wide=name == "wrn22_8")
    return network
