"""Small networks, batches and trainings for tests of single stages, without a run around them."""

import pytest
import torch
from toy_networks import with_statistics

from relinearize.backbones import PixelInput, build_backbone
from relinearize.records.store import CHECKPOINT
from relinearize.relu.sites import linearize
from relinearize.training.fit import fit
from relinearize.training.settings import TrainerSettings

CPU = {"accelerator": "cpu", "precision": "32", "compile": False, "checkpoint_seconds": 0, "progress": "none"}


def pixels(network):
    """Behind the adapter for images of three channels."""
    return PixelInput(network, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def pixel_network(name, width, size, seed=0, classes=5, **settings):
    """A linearized backbone, full masks, with batch norms that do something."""
    torch.manual_seed(seed)
    backbone = build_backbone(name, classes=classes, image_size=size, width=width, **settings)
    return with_statistics(pixels(linearize(backbone, (3, size, size))))


class Batches:
    """What a stage needs of a loader: the same two batches in every epoch, and a kill in one of them.

    Images of 3 x 8 x 8, labels of three classes and, with `second_view`, further images.
    """

    def __init__(self, images, killed_in_epoch=None, second_view=False):
        generator = torch.Generator().manual_seed(4)

        def batch():
            shown = torch.rand(images, 3, 8, 8, generator=generator)
            labels = torch.randint(3, (images,), generator=generator)
            return (shown, labels, torch.rand(shown.shape, generator=generator)) if second_view else (shown, labels)

        self.batches = [batch() for _ in range(2)]
        self.batches_per_epoch = 2
        self.killed_in_epoch, self.epoch = killed_in_epoch, 0

    def seek(self, epoch, segment):
        self.epoch = epoch

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        if self.epoch == self.killed_in_epoch:
            raise RuntimeError("killed")
        return iter(self.batches)


def fit_stage(stage, folder, **settings):
    folder.mkdir(exist_ok=True)
    fit(stage, TrainerSettings.resolve(**CPU | settings), folder / CHECKPOINT)
    return stage


def killed_and_resumed(new_stage, killed_in_epoch, folder):
    """(a stage trained as a whole, one that was killed and went on to the same bits).

    new_stage: called with the epoch of a kill, or without arguments.
    """
    whole = fit_stage(new_stage(), folder / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        fit_stage(new_stage(killed_in_epoch), folder / "killed")
    resumed = fit_stage(new_stage(), folder / "killed")
    wanted, found = whole.weights(), resumed.weights()
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    for before, after in zip(whole.history, resumed.history, strict=True):
        assert before | {"seconds": 0} == after | {"seconds": 0}
    assert whole.selected()[1] == resumed.selected()[1]
    return whole, resumed
