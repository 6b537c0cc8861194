#!/usr/bin/env python3
"""GPU hours to expect of the experiments in conf/experiment/paper: arithmetic, not a measurement.

    python scripts/gpu_hours.py                              # all, stage by stage
    python scripts/gpu_hours.py snl_cifar100_resnet18        # one
    python scripts/gpu_hours.py --rate 90                    # TFLOP/s as `benchmark.py gpu` measured them
    python scripts/gpu_hours.py --write                      # into the heads of the files, at the default rate

hours = training images x epochs x passes x operations of a forward pass / rate, summed over the stages of the sweep.
Operations are those of convolutions and matrix products (2 per multiplication and addition). Validation, tests, AugMix,
compiling and the robust evaluation are left out. SNL's search ends when its count of ReLUs is low enough: how many
epochs that takes is read off published logs.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from relinearize.relu.budget import parse_count
from relinearize.relu.mask import relu_total
from relinearize.runs.build import all_relu_network

PAPER = ROOT / "conf" / "experiment" / "paper"
# Assumed, an eighth of the 312 TFLOP/s that an A100's data sheet gives for bf16. No GPU run has been made.
RATE = 40.0
IMAGES = {  # training images, pixels, classes
    "cifar10": (50_000, 32, 10), "cifar100": (50_000, 32, 100), "tiny_imagenet": (100_000, 64, 200),
    "imagenet": (1_281_167, 224, 1000),
}  # fmt: skip

# Passes per training image, in forward passes of the full network: a training step is one forward and, counted as two,
# one backward pass; the teacher's is one forward pass. RLNet trains on half of the images clean and as AugMix views, on
# the other half under PGD-7, each step of which goes forward and back to the pixels: 3 x 1.5 + 7 x 2 x 0.5. Its teacher
# computes the logits of all images, in the fine-tuning also of the AugMix views.
PASSES = {
    "Classifier": 3.0,
    "SparseTraining": 3.0,
    "SNLSearch": 4.0,
    "SENetSearch": 4.0,
    "Distill": 4.0,
    "PRAMDistill": 4.0,
    "OrderedDistill": 4.75,  # the half width has a quarter of the operations: 3 x 1.25 + 1
    "RobustClassifier": 11.5,
    "RLNetSearch": 12.5,
    "RobustDistill": 13.0,
}

# SNL's search, ResNet-18 (491,520 ReLUs), CIFAR-100, 50,000 images: ReLUs and the epochs to come down to them, the most
# that ten runs of the released recipe took (logs of an independent rerun, which published.csv names). Elsewhere the
# same number of steps is assumed to lead to the same share of the ReLUs.
SNL_TOTAL, SNL_IMAGES = 491_520, 50_000
SNL_EPOCHS = {
    491_520: 0, 300_000: 28, 200_000: 49, 180_000: 57, 150_000: 73, 120_000: 104, 100_000: 134, 80_000: 169,
    60_000: 219, 50_000: 250, 40_000: 289, 30_000: 342, 25_000: 379, 15_000: 454, 13_000: 470, 10_000: 503,
    6_000: 520,
}  # fmt: skip


@dataclass(frozen=True)
class StageHours:
    """`times`: how often the sweep trains this stage."""

    stage: str
    kind: str
    epochs: float
    times: int
    hours: float


def experiment(name: str) -> tuple[DictConfig, list[int]]:
    """The config of conf/experiment/paper/NAME.yaml and the budgets that its sweep asks for."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"experiment=paper/{name}"])
    params = OmegaConf.select(OmegaConf.load(PAPER / f"{name}.yaml"), "hydra.sweeper.params")
    asked = str(params.get("budget", params.get("budget.relus")))
    return config, [parse_count(value) for value in asked.split(",")]


def network_facts(config: DictConfig) -> tuple[int, int]:
    """(operations of one forward pass of an image, ReLUs of the network)."""
    _, size, classes = IMAGES[config.dataset.name]
    network = all_relu_network(config, SimpleNamespace(classes=classes, image_size=size, channels=3)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size))
    return counter.get_total_flops(), relu_total(network.network)


def snl_epochs(share: float, images: int) -> float:
    """Epochs of `images` images until SNL's search has come down to `share` of the ReLUs."""
    places = [(math.log(count / SNL_TOTAL), epochs) for count, epochs in SNL_EPOCHS.items()]
    wanted = math.log(share)
    for (high, before), (low, after) in pairwise(places):
        if low <= wanted <= high:
            return (before + (after - before) * (high - wanted) / (high - low)) * SNL_IMAGES / images
    raise ValueError(f"the logs do not go down to {100 * share:.1f} % of the ReLUs")


def stage_hours(name: str, rate: float = RATE) -> list[StageHours]:
    """The stages of an experiment's sweep at `rate` TFLOP/s."""
    config, budgets = experiment(name)
    operations, total = network_facts(config)
    images = round(IMAGES[config.dataset.name][0] * (1 - config.dataset.holdout))
    stages = [("teacher", config.method.teacher, None, 1)]
    if config.method.search._target_.endswith(".SNLSearch"):
        stages.append(("search", config.method.search, snl_epochs(min(budgets) / total, images), 1))
    else:
        stages.append(("sensitivity", config.sensitivity, None, 1))
        stages.append(("search", config.method.search, None, len(budgets)))
    stages.append(("finetune", config.method.finetune, None, len(budgets)))
    found = []
    for stage, settings, epochs, times in stages:
        kind = settings._target_.rsplit(".", 1)[-1]
        epochs = settings.epochs if epochs is None else epochs
        seconds = images * epochs * times * PASSES[kind] * operations / (rate * 1e12)
        found.append(StageHours(stage, kind, epochs, times, seconds / 3600))
    return found


def head_line(name: str) -> str:
    """The line that the file of an experiment has on this."""
    hours = sum(stage.hours for stage in stage_hours(name))
    return f"# GPU hours  {hours:.1f} at {RATE:g} TFLOP/s (scripts/gpu_hours.py); estimate, not measured"


def names() -> list[str]:
    return sorted(path.stem for path in PAPER.glob("*.yaml"))


def lines(name: str, rate: float) -> Iterator[str]:
    stages = stage_hours(name, rate)
    yield f"{name}: {sum(stage.hours for stage in stages):.1f} hours at {rate:g} TFLOP/s"
    for stage in stages:
        yield f"  {stage.stage:<12}{stage.kind:<18}{stage.times} x {stage.epochs:.0f} epochs {stage.hours:8.2f} h"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="experiment", help="files of conf/experiment/paper (default: all)")
    parser.add_argument("--rate", type=float, default=RATE, help="sustained TFLOP/s")
    parser.add_argument("--write", action="store_true", help="put the hours into the heads of the files")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names()):
        parser.error(f"no such experiment: {min(unknown)}; valid: {', '.join(names())}")
    if options.rate <= 0:
        parser.error("--rate must be above 0")
    for name in options.names or names():
        print("\n".join(lines(name, options.rate)), flush=True)
        if options.write:
            path = PAPER / f"{name}.yaml"
            path.write_text(re.sub(r"^# GPU hours .*$", head_line(name), path.read_text(), count=1, flags=re.MULTILINE))


if __name__ == "__main__":
    main()
