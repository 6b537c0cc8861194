"""Small networks and their bundles, for the tests of inference and cost."""

import torch
from torch import nn
from toy_networks import with_statistics

from relinearize.backbones import PixelInput, build_backbone
from relinearize.private_inference.bundle.exporting import as_bundle
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, to_masked, to_replaced

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
BACKBONES = [("resnet8", 8), ("resnet18", 8), ("resnet34", 8), ("wrn22_8", 1), ("vgg16_bn", 8)]  # and a width


def after_training(network: nn.Module) -> nn.Module:
    """In eval mode; some factors of its batch norms are below zero."""
    return with_statistics(network, lowest=-0.5).eval()


def linearized(name: str = "resnet8", width: int = 8, size: int = 16, **settings) -> PixelInput:
    torch.manual_seed(0)
    backbone = build_backbone(name, classes=5, image_size=size, width=width, **settings)
    return PixelInput(linearize(after_training(backbone), (3, size, size)), MEAN, STD).eval()


def some_kept(network: PixelInput, share: float = 0.4) -> PixelInput:
    """Random positions; the first site keeps all of its ReLUs, the second none."""
    generator = torch.Generator().manual_seed(1)
    full = Mask.full(network.network)
    kept = {name: torch.rand(mask.shape, generator=generator) < share for name, mask in full.items()}
    first, second, *_ = kept
    kept[first], kept[second] = full[first], ~full[second]
    to_masked(network.network, Mask(kept))
    return network


def small_bundle(**settings):
    return as_bundle(some_kept(linearized(**settings)), (3, 16, 16))


def replaced(kind: type, **settings) -> PixelInput:
    """`some_kept` with a replacement of methods/replacement.py, fitted to random images."""
    network = some_kept(linearized(**settings))
    images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    to_replaced(network.network, kind().coefficients(network, [(images, torch.zeros(40, dtype=torch.long))], 0))
    return network
