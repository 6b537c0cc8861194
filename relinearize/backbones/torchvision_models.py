"""Any classifier of torchvision.models, by name: `backbone=torchvision backbone.model=resnet18`.

Networks whose nonlinearities are no ReLUs (MobileNetV3, EfficientNet, ViT, ...) are refused by `relu.sites.linearize`,
which names them.
"""

import difflib

import torchvision
from torch import nn

from relinearize.errors import UserError

# Their auxiliary heads work in training only and would be neither counted nor linearized: they are left out.
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def build_classifier(
    model: str, *, classes: int, image_size: int, channels: int = 3, cifar_stem: bool = False
) -> nn.Module:
    """The classifier `model` with fresh weights: N x `channels` x `image_size` x `image_size` to N x `classes`.

    `cifar_stem`: a 3x3 stem with stride 1 and no max-pool, for ResNets on small images. Raises UserError for unknown
    names, for a model that has no such stem, and for images that the model cannot take (`linearize` runs it).
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if model not in known:
        close = difflib.get_close_matches(str(model), known, n=4) or ["resnet18", "vgg11_bn", "densenet121"]
        raise UserError(f"backbone.model={model}: no classifier of torchvision.models; close are {', '.join(close)}")
    auxiliary = {"aux_logits": False, "init_weights": True} if model in WITH_AUXILIARY_HEADS else {}
    network = torchvision.models.get_model(model, weights=None, num_classes=classes, **auxiliary)
    if cifar_stem:
        if not isinstance(network, torchvision.models.ResNet):
            raise UserError(f"backbone.cifar_stem=true: only ResNets have this stem, {model} has not")
        network.conv1 = _like(network.conv1, channels, kernel_size=3, stride=1, padding=1)
        network.maxpool = nn.Identity()
    elif channels != 3:
        name, stem = next((name, part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d))
        network.set_submodule(name, _like(stem, channels))
    return network


def _like(conv: nn.Conv2d, channels: int, **changes: int) -> nn.Conv2d:
    """A convolution as `conv` for images of `channels`, with He's initial weights."""
    settings = {key: getattr(conv, key) for key in ("kernel_size", "stride", "padding")} | changes
    new = nn.Conv2d(channels, conv.out_channels, bias=conv.bias is not None, **settings)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
