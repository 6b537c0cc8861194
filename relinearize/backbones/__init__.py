"""The networks, written with nn.ReLU modules only, each called once; they know nothing of masks."""

from torch import nn

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.initialisation import INITIALISATIONS, initialise_as_released
from relinearize.backbones.resnet import ResNet
from relinearize.backbones.vgg import POOLS, VGG
from relinearize.backbones.wide_resnet import WideResNet
from relinearize.errors import UserError, check_choice, check_number

__all__ = ["BACKBONES", "CONVENTIONS", "PixelInput", "build_backbone"]

CONVENTIONS = ("snl", "senet")


# Blocks of each stage, and the papers' channels of the first; each further stage has twice as many. ReLUs at 32 pixels:
# resnet18 491,520 (snl) or 557,056 (senet), resnet34 901,120 or 966,656. resnet8 is for tests and small images.
RESNETS = {"resnet8": ((1, 1, 1), 16), "resnet18": ((2, 2, 2, 2), 64), "resnet34": ((3, 4, 6, 3), 64)}
BACKBONES = (*RESNETS, "wrn22_8", "vgg16_bn")


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
    check_choice("backbone.name", name, BACKBONES)
    check_choice("backbone.convention", convention, CONVENTIONS)
    check_choice("backbone.initialisation", initialisation, INITIALISATIONS)
    if (name, initialisation) == ("vgg16_bn", "snl"):
        raise UserError("backbone.initialisation=snl: SNL's code has no vgg16_bn with masks; give he or senet")
    check_choice("backbone.pool", pool, tuple(POOLS))
    if pool != "max" and name != "vgg16_bn":
        raise UserError(f"backbone.pool={pool}: {name} has no max-pools; only vgg16_bn has")
    for key, value in {"backbone.width": width, "classes": classes, "channels": channels}.items():
        check_number(key, value, ">= 1", integer=True, optional=True)
    smallest = 8 if name == "vgg16_bn" else 1  # three halvings
    check_number(f"image size of {name}", image_size, f">= {smallest}", integer=True)
    if name == "vgg16_bn":  # 294,912 ReLUs at 32 pixels, 1,105,920 at 64, in both conventions
        return VGG(width or 64, classes, channels, image_size, pool)
    if name == "wrn22_8":  # 1,359,872 (snl) or 1,392,640 (senet) ReLUs at 32 pixels
        network = WideResNet(22, 8, width or 16, classes, channels, final_relu=convention == "senet")
    else:
        blocks, usual_width = RESNETS[name]
        network = ResNet(blocks, width or usual_width, classes, channels, stem_relu=convention == "senet")
    if initialisation != "he":
        initialise_as_released(network, initialisation, wide=name == "wrn22_8")
    return network
