"""From a config to a network: the backbone with its initial weights, linearized, behind its pixel adapter."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.resnet import drop_identity_shortcuts
from relinearize.relu.sites import linearize
from relinearize.runs.images import fill_statistics
from relinearize.runs.weights import load_initial


def all_relu_network(config: DictConfig, source: Any = None, student: bool = False) -> PixelInput:
    """The network of `config.backbone` for `config.dataset`, every site a MaskedReLU that keeps all its ReLUs.

    The initial weights are a function of `config.seed`; the global generator is left as it was. `backbone` may name
    any callable that takes classes, image_size and channels (and the other keys of its file) and returns a Module.
    `backbone.weights` names a file of initial weights for it.

    `student`: the network that is linearized, not the teacher. The two differ where `backbone.student_skip` is false:
    then the student's residual blocks drop their identity shortcuts, as in SENet's and RLNet's released code.
    """
    source = source or instantiate(config.dataset.source)
    settings = OmegaConf.to_container(config.backbone, resolve=True)
    student_skip, weights = settings.pop("student_skip", True), settings.pop("weights", None)
    if settings["_target_"] != "relinearize.backbones.build_backbone":
        settings.pop("name")  # a label for folders and records; our own builder is told what to build by it
    build = instantiate(settings, _partial_=True)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        backbone = build(classes=source.classes, image_size=source.image_size, channels=source.channels)
    if weights is not None:
        load_initial(backbone, Path(weights))
    if student and not student_skip:
        drop_identity_shortcuts(backbone)
    fill_statistics(config, source)
    input_size = (source.channels, source.image_size, source.image_size)
    mean, std = (OmegaConf.to_container(config.dataset[key], resolve=True) for key in ("mean", "std"))
    return PixelInput(linearize(backbone, input_size), mean, std)
