"""Small networks and batches for the tests of attacks, and all that an attack could leave changed."""

import random

import numpy as np
import torch
from torch import Tensor, nn

from relinearize.backbones import PixelInput, build_backbone

CLASSES = 5


def toy_network(seed: int = 0, classes: int = CLASSES) -> PixelInput:
    """A small ResNet behind its pixel adapter, with batch norms that do something; in eval mode."""
    torch.manual_seed(seed)
    network = build_backbone("resnet8", classes=classes, image_size=8, width=8, convention="senet")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return PixelInput(network, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)).eval()


def batch(images: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Pixels with whole areas at 0 and 1, where the box matters, and labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = (torch.rand(images, 3, 8, 8, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return pixels, torch.randint(CLASSES, (images,), generator=generator)


def own_labels(network: nn.Module, images: Tensor) -> Tensor:
    """What the network says, so that it is right about all images."""
    with torch.no_grad():
        return network(images).argmax(1)


def right(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return own_labels(network, images) == labels


def mixed_modes(network: nn.Module) -> None:
    """Top in train, one batch norm frozen in eval; one parameter frozen, one with a gradient waiting."""
    network.train()
    next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    frozen, waiting, *_ = network.parameters()
    frozen.requires_grad_(False)
    waiting.grad = torch.full_like(waiting, 3.0)


def everything_about(network: nn.Module) -> list:
    """All that an attack could change, in comparable form."""
    return [
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
        [None if parameter.grad is None else parameter.grad.sum().item() for parameter in network.parameters()],
        {name: value.double().sum().item() for name, value in network.state_dict().items()},
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
    ]
