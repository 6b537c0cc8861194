"""ImageData over the digits: subset, hold-out, residence, and what it refuses."""

import subprocess
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from relinearize.data.datamodule import ImageData
from relinearize.data.decoding import CentralCrop, EncodedImages
from relinearize.data.digits import Digits, read_digits
from relinearize.data.splits import choose_subset, split_holdout, stable_order
from relinearize.errors import UserError
from relinearize.runs.build import fill_statistics


def digits(**options) -> ImageData:
    settings = {"mean": [0.3], "std": [0.4], "augment": {"crop_padding": 1, "flip": False}, **options}
    return ImageData(Digits(), **settings)


def test_digits_are_the_known_ones():
    images, _labels, _test = read_digits()
    assert images.shape == (1797, 8, 8, 1) and set(np.unique(images)) == {round(v * 255 / 16) for v in range(17)}
    train = Digits().load("train")
    pixels = train.images / 255
    assert train.images.dtype == torch.uint8 and len(train) == 1437
    assert pixels.mean().item() == pytest.approx(0.3051, abs=1e-4)  # the constants of conf/dataset/digits.yaml
    assert pixels.std().item() == pytest.approx(0.3757, abs=1e-4)


def test_changed_digits_are_refused(monkeypatch):
    monkeypatch.setattr(Digits, "CONTENT", "0" * 64)
    with pytest.raises(UserError, match="scikit-learn"):
        Digits().load("test")


def test_sizes_and_holdout_are_stratified():
    data = digits(holdout=0.1)
    assert data.sizes == {"train": 1293, "holdout": 144, "test": 360}
    held_out = torch.cat([labels for _images, labels in data.holdout_loader(50)])
    assert held_out.bincount().min() >= 14 and held_out.bincount().max() <= 15
    assert len(data.holdout_loader(50)) == 3


def test_holdout_and_training_images_are_apart_and_fixed_by_the_seed():
    labels = Digits().load("train").labels.numpy()
    train, held_out = split_holdout(labels, 0.25, seed=3)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert np.array_equal(split_holdout(labels, 0.25, seed=3)[1], held_out)
    assert not np.array_equal(split_holdout(labels, 0.25, seed=4)[1], held_out)


def test_stable_order_never_changes():
    assert stable_order(8, 0, "holdout").tolist() == [6, 5, 2, 3, 0, 4, 1, 7]


def test_no_holdout():
    data = digits(holdout=0)
    assert data.holdout_loader() is None and data.sizes["train"] == 1437


def test_subset_comes_before_the_holdout_and_spares_the_test_set():
    data = digits(subset=100, holdout=0.2)
    assert data.sizes == {"train": 80, "holdout": 20, "test": 360}
    seen = torch.cat([labels for _images, labels in data.train_loader(16, seed=0)])
    assert seen.bincount(minlength=10).min() >= 7


def test_subsets_keep_every_class():
    labels = np.array([0] * 95 + [1] * 3 + [2] * 2)
    chosen = choose_subset(labels, 5)
    assert np.bincount(labels[chosen]).tolist() == [3, 1, 1]
    assert choose_subset(labels, 100).tolist() == list(range(100))


def test_test_loader_is_in_order_and_repeats():
    data = digits()
    test = Digits().load("test")
    for _pass in range(2):
        batches = list(data.test_loader(100))
        assert torch.equal(torch.cat([labels for _images, labels in batches]), test.labels)
        assert torch.equal(torch.cat([images for images, _labels in batches])[:, 0], test.images[..., 0] / 255)


def test_streamed_and_resident_data_are_the_same():
    ours, theirs = digits(resident=True), digits(resident=False, workers=0)
    assert ours.is_resident and not theirs.is_resident
    for name in ("train_loader", "holdout_loader", "test_loader"):
        arguments = (100, 5) if name == "train_loader" else (100,)
        for mine, other in zip(getattr(ours, name)(*arguments), getattr(theirs, name)(*arguments), strict=True):
            assert torch.equal(mine[0], other[0]) and torch.equal(mine[1], other[1])


def test_auto_residence_goes_by_bytes():
    data = digits()
    assert data.resident_bytes == 1293 * 100 + (144 + 360) * 64
    assert data.is_resident
    assert not digits(resident_limit_gb=1e-5).is_resident
    assert digits(resident_limit_gb=0.01).is_resident


def test_stages_share_the_resident_images():
    data = digits()
    assert data.train_loader(16, 0).images is data.train_loader(32, 1).images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 1.0}, r"dataset.holdout=1.0: .*\[0, 1\)"),
        ({"holdout": -0.1}, "dataset.holdout=-0.1"),
        ({"holdout": "ten"}, "dataset.holdout=ten"),
        ({"holdout": 0.0001}, "dataset.holdout=0.0001: 0 of 1437"),
        ({"holdout": 0.999}, "dataset.holdout=0.999"),
        ({"subset": 1438}, "dataset.subset=1438: .* 10 .* to 1437"),
        ({"subset": 9}, "dataset.subset=9"),
        ({"subset": 0.5}, "dataset.subset=0.5"),
        ({"mean": [0.1, 0.2]}, "dataset.mean=.*1 channel"),
        ({"std": [0.0]}, "dataset.std"),
        ({"augment": {"crop_padding": -1, "flip": True}}, "crop_padding=-1"),
        ({"augment": {"crop_padding": 8, "flip": True}}, "crop_padding=8: valid is 0 to 7"),
        ({"augment": {"crops": 4}}, "dataset.augment.crops"),
        ({"augment": {"flip": "yes"}}, "dataset.augment.flip=yes"),
        ({"resident": "maybe"}, "dataset.resident=maybe"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(UserError, match=message) as caught:
        _ = digits(**options).sizes
    assert "\n" not in str(caught.value)


def test_sources_and_fingerprints_need_no_torch():
    code = """
import sys
import relinearize.data.cifar, relinearize.data.tiny_imagenet, relinearize.data.image_folder
import relinearize.data.torchvision_sets
from relinearize.data.digits import Digits
Digits().fingerprint()
print("torch" in sys.modules, "sklearn" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


class Own(Digits):
    """A source of one's own, whose training images are given."""

    given: ClassVar = {}

    def load(self, split):
        found = super().load(split)
        return replace(found, **{name: change(getattr(found, name)) for name, change in self.given.items()})


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "images",
            lambda images: images / 255,
            r"the train images of digits: images must be torch\.uint8, not .*float32",
        ),
        ("images", lambda images: images[:, 1:], r"must be N x H x W x C of \(8, 8, 1\), not \(7, 8, 1\)"),
        ("labels", lambda labels: labels.int(), r"labels must be torch\.int64, not torch\.int32"),
        ("labels", lambda labels: labels + 1, r"labels reach from 1 to 10, valid are 0 to 9"),
        ("labels", lambda labels: labels[:, None], r"labels of \(1437, 1\) are no image set: N x H x W x C and N$"),
        ("labels", lambda labels: labels[1:], r"labels of \(1436,\) are no image set"),
        ("images", lambda images: images[..., 0], r"images of \(1437, 8, 8\) and labels of \(1437,\) are no image set"),
    ],
)
def test_images_of_one_s_own_source_are_looked_at(monkeypatch, name, change, words):
    monkeypatch.setattr(Own, "given", {name: change})
    with pytest.raises(UserError, match=words):
        _ = ImageData(Own(), mean=[0.5], std=[0.5], augment={}, holdout=0.1, seed=0).sizes


class Lazy(EncodedImages):
    """Images that are decoded when they are asked for, of a source that does not say stream=True."""

    def __init__(self, images):
        super().__init__(len(images), CentralCrop(8, channels=1))
        self.images = images

    def image(self, position):
        return Image.fromarray(self.images[position, ..., 0].numpy())

    def name(self, position):
        return f"image {position}"


@pytest.mark.parametrize("resident", [True, False])
def test_lazily_decoded_images_of_one_s_own_source_may_be_resident(monkeypatch, resident):
    monkeypatch.setattr(Own, "given", {"images": Lazy})
    settings = {"mean": [0.3], "std": [0.4], "augment": {"crop_padding": 1, "flip": False}, "workers": 0}
    lazy, plain = (ImageData(source, resident=resident, **settings) for source in (Own(), Digits()))
    for one, other in (
        (lazy.train_loader(100, 5), plain.train_loader(100, 5)),
        (lazy.holdout_loader(), plain.holdout_loader()),
        (lazy.test_loader(), plain.test_loader()),
    ):
        for ours, theirs in zip(one, other, strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("given", [{"mean": [0.5], "std": None}, {"mean": None, "std": [0.5]}])
def test_statistics_that_are_given_stay(given):
    config = OmegaConf.create({"dataset": given})
    fill_statistics(config, Digits())
    (name,) = [name for name, value in given.items() if value is not None]
    assert config.dataset[name] == [0.5] and all(len(config.dataset[other]) == 1 for other in given)
