"""From a config to its images and its network: what `dataset` and `backbone` name, built."""

import copy
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from relinearize.backbones import build_backbone
from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.resnet import drop_identity_shortcuts
from relinearize.backbones.weights import load_initial
from relinearize.data.order import seeded_generator
from relinearize.data.source import Source
from relinearize.errors import UserError, one_line
from relinearize.records.run import DatasetRecord
from relinearize.relu.copies import with_weights
from relinearize.relu.sites import linearize
from relinearize.targets import build, builder, plain, target

if TYPE_CHECKING:
    from relinearize.data.datamodule import ImageData

# What every backbone takes beside the parameters of its function.
NETWORK_DEFAULTS = {"student_skip": True, "weights": None}
# What a search may give its student other than the teacher has: channels of the first stage (None: as many), and by
# what the stride of the first convolution is multiplied, so that all maps are smaller. Noted in the config by Request.
STUDENT_SHAPE = {"student_width": None, "student_stride": 1}


def open_source(config: DictConfig) -> Source:
    """The source of `config.dataset`, its files looked at. UserError where something is missing."""
    source = build(config.dataset.source)
    source.check()
    fill_statistics(config, source)
    return source


def fill_statistics(config: DictConfig, source: Source) -> None:
    """Where `dataset.mean` and `dataset.std` are null, put those of the training images into the config."""
    if config.dataset.mean is None or config.dataset.std is None:
        from relinearize.data.datamodule import channel_statistics

        for name, values in zip(("mean", "std"), channel_statistics(source), strict=True):
            if config.dataset[name] is None:
                config.dataset[name] = values


def open_images(config: DictConfig, source: Source, device: str) -> "ImageData":
    """The images of `source` as `config.dataset` wants them, on `device`."""
    from relinearize.data.datamodule import ImageData

    dataset = plain(config.dataset)
    names = ("mean", "std", "augment", "holdout", "subset", "short_batch", "resident", "resident_limit_gb", "workers")
    settings = {"holdout": 0} | {name: dataset[name] for name in names if name in dataset}
    settings["processes"] = config.trainer.get("devices", 1)
    return ImageData(source, seed=config.seed, device=device, **settings)


def check_network(network: PixelInput, source: Source) -> None:
    """UserError unless `network`, in training or not, gives logits of the images as they come (channels last)."""
    size = (4, source.channels, source.image_size, source.image_size)
    images, tried = torch.zeros(size).to(memory_format=torch.channels_last), copy.deepcopy(network)
    for training in (True, False):
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                logits = tried.train(training)(images)
        except Exception as error:
            raise UserError(
                f"backbone: fails on images{' whose channels are last in memory' if network.channels_last else ''} "
                f"({one_line(error)})"
                f"{'; views of maps need flatten(1) or reshape' if 'view' in str(error) else ''}"
            ) from error
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != (4, source.classes):
            raise UserError(f"backbone: of 4 images it makes {shape}, not 4 x {source.classes} logits")


def all_relu_network(
    config: DictConfig, source: Source | DatasetRecord | None = None, student: bool = False
) -> PixelInput:
    """The network of `config.backbone` for `config.dataset`, every site a MaskedReLU that keeps all its ReLUs.

    The initial weights are a function of `config.seed`; the global generator is left as it was. `backbone` may name
    any callable that takes classes, image_size and channels (and the other keys of its file) and returns a Module.
    `backbone.weights` names a file of initial weights for it.

    `source`: whose images it takes, or the record of a finished run, which needs none of them; None: `config.dataset`.

    `student`: the network that is linearized, not the teacher. Its initial weights are others: the teacher's are drawn
    from the seed itself, the student's from a hash of the seed and the word "student" (`seeded_generator`). And where
    `backbone.student_skip` is false its residual blocks drop their identity shortcuts, as in SENet's and RLNet's
    released code. Its width and resolution may be others, too (STUDENT_SHAPE).
    """
    source = source or build(config.dataset.source)
    settings = NETWORK_DEFAULTS | STUDENT_SHAPE | plain(config.backbone)
    student_skip, weights, width, stride = (settings.pop(name) for name in (*NETWORK_DEFAULTS, *STUDENT_SHAPE))
    if student and width is not None:
        settings["width"], weights = width, None
    if target(settings) is not build_backbone:
        settings.pop("name")  # a label for folders and records; our own builder is told what to build by it
        if settings.get("initialisation") == "he":  # the default in our files, which a user's class need not know
            del settings["initialisation"]
    make = builder(settings)
    # NumPy integers perhaps, of a source of the user's.
    classes, image_size, channels = int(source.classes), int(source.image_size), int(source.channels)
    images = {"classes": classes, "image_size": image_size, "channels": channels}
    try:
        inspect.signature(make.func).bind(*make.args, **make.keywords, **images)
    except TypeError as error:
        raise UserError(f"backbone._target_={config.backbone._target_} cannot be called: {error}") from error
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU
        seed = seeded_generator("student", config.seed).initial_seed() if student else config.seed
        torch.default_generator.manual_seed(seed)
        try:
            backbone = with_weights(make(**images)).cpu()  # moved to its device when it trains
        except TypeError as error:  # **kwargs take anything, and hand it on
            if "argument" not in str(error):
                raise
            raise UserError(
                f"backbone._target_={config.backbone._target_} fails: {one_line(error)}; it is given classes, "
                "image_size and channels, and the other keys of its file"
            ) from error
    if weights is not None:
        load_initial(backbone, Path(weights))
    if student and not student_skip:
        drop_identity_shortcuts(backbone)
    if student and stride > 1:
        stem = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
        stem.stride = tuple(stride * one for one in stem.stride)
    fill_statistics(config, source)
    input_size = (channels, image_size, image_size)
    from relinearize.data.datamodule import channel_values

    mean = channel_values("dataset.mean", plain(config.dataset.mean), source.channels)
    std = channel_values("dataset.std", plain(config.dataset.std), source.channels, positive=True)
    channels_last = OmegaConf.select(config, "trainer.channels_last", default=True)  # `export` has no trainer
    return PixelInput(linearize(backbone, input_size), mean, std, channels_last)
