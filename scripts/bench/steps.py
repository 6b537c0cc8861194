"""The pipeline's own training steps, without the pipeline: stage, loss and optimizer as it uses them."""

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from relinearize.backbones import PixelInput, build_backbone
from relinearize.backbones.routes import ROUTES, with_routes
from relinearize.convolution import on_winograd, resolve_convolutions
from relinearize.methods.distill import Distill
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.rlnet.search import RLNetSearch
from relinearize.methods.rlnet.teacher import RobustClassifier
from relinearize.methods.senet.pram import PRAMDistill
from relinearize.methods.senet.search import SENetSearch
from relinearize.methods.snl import SNLSearch
from relinearize.methods.stage.stage import Stage
from relinearize.methods.teacher import Classifier
from relinearize.relu.sites import linearize, site_shapes, to_sloped

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SIZE = 32


def network_of(width: int) -> PixelInput:
    """ResNet-18 for CIFAR-10 with all its ReLUs, behind its pixel adapter; always the same weights."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", classes=10, image_size=SIZE, width=width, convention="snl")
    return PixelInput(linearize(backbone, (3, SIZE, SIZE)), MEAN, STD)


def stage_of(kind: str, width: int, batch: int, *, search: Callable[..., SNLSearch] = SNLSearch, **settings) -> Stage:
    """A stage as the pipeline makes it, in channels_last.

    "teacher", "search" (SNL's), "finetune" (distillation), "pram" and "robust teacher" (RLNet's); under a mask of a
    quarter of the ReLUs: "mask search" (SENet's) and "robust student" (RLNet's mask search).
    """
    network = network_of(width)
    common = {"epochs": 1, "batch_size": batch, "learning_rate": 1e-3} | settings
    if kind == "teacher":
        stage: Stage = Classifier(network, **common)
    elif kind == "robust teacher":
        stage = RobustClassifier(with_routes(network, ROUTES[2]), **common)
    else:
        teacher = frozen_copy(network)
        if kind == "finetune":
            stage = Distill(network, teacher, **common)
        elif kind == "pram":
            stage = PRAMDistill(network, teacher, **common)
        elif kind in ("mask search", "robust student"):
            shapes = site_shapes(network.network)
            even = dict.fromkeys(shapes, 1.0)
            common |= {"sensitivities": even, "budget": sum(math.prod(shape) for shape in shapes.values()) // 4}
            if kind == "mask search":
                stage = SENetSearch(network, teacher, **common)
            else:
                stage = RLNetSearch(with_routes(network, ROUTES[2]), teacher, selection="last", **common)
            stage.put_on(stage.first_mask(0))
        else:
            to_sloped(network.network)
            stage = search(network, teacher, budgets=[1], on_snapshot=lambda snapshot: None, **common)
    for part in (stage.network, *stage._frozen):
        part.to(memory_format=torch.channels_last)
    return stage


class StageStep:
    """Training steps of a stage without a Trainer, with the stage's loss and optimizer, in parts that can be timed."""

    def __init__(
        self,
        stage: Stage,
        precision: str = "32",
        device: str = "cpu",
        compiled: bool | str = False,
        convolutions: str = "auto",
    ) -> None:
        self.stage, self.precision, self.device = stage, precision, device
        networks: tuple[nn.Module, ...] = (stage.network, *stage._frozen)
        for network in networks:
            network.to(device)
            if compiled:
                network.compile(mode=None if compiled is True else compiled, dynamic=False)
        possible = device == "cpu" and precision == "32" and not compiled
        self.convolutions = resolve_convolutions(convolutions, possible)
        self._switched = contextlib.ExitStack()  # never closed: for as long as there are steps to make
        if self.convolutions == "winograd":
            self._switched.enter_context(on_winograd(*networks))
        stage.network.train()
        self.optimizer = stage.configure_optimizers()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    @torch.no_grad()
    def teacher(self, images: Tensor) -> Tensor:
        with self.autocast():
            return self.stage._frozen[0](images)

    def step(self, *batch: Tensor) -> Tensor:
        with self.autocast():
            loss, _ = self.stage.loss(*batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def batch_of(size: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random pixels in [0, 1] as the loaders yield them (channels_last) and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(size, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(0, 10, (size,), generator=generator)
    return images.to(device, memory_format=torch.channels_last), labels.to(device)


def normalised(images: Tensor) -> Tensor:
    """The same images for a network without adapter, in N x C x H x W order."""
    mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (MEAN, STD))
    return ((images - mean) / std).contiguous()
