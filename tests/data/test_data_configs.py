"""Every file of conf/dataset composes, names the papers' constants, and builds its source."""

from pathlib import Path

import pytest
from fake_sets import write_fashion_mnist, write_tree
from hydra.utils import instantiate
from omegaconf import OmegaConf

from relinearize.data.datamodule import ImageData
from relinearize.data.source import Source

CONF = Path(__file__).parents[2] / "conf" / "dataset"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
CONSTANTS = {  # SNL and RLNet
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010], 4, True),
    "cifar100": ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761], 4, True),
    "tiny_imagenet": ([0.480, 0.448, 0.398], [0.277, 0.269, 0.282], 4, True),
    "digits": ([0.3051], [0.3757], 1, False),
}


def dataset(name: str, **overrides):
    config = OmegaConf.create({"dataset": OmegaConf.load(CONF / f"{name}.yaml")})
    config.dataset.merge_with(overrides)
    return config.dataset


def test_the_sets():
    assert NAMES == ["cifar10", "cifar100", "digits", "image_folder", "imagenet", "tiny_imagenet", "torchvision"]


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_the_same_everywhere(name):
    own = {"class", "channels", "train_split", "test_split", "options"} if name == "torchvision" else set()
    assert set(dataset(name)) - {"image_size"} - own == set(dataset("digits"))


@pytest.mark.parametrize("name", NAMES)
def test_builds_its_source(name, tmp_path):
    needed = {"image_folder": {"image_size": 64}, "torchvision": {"class": "FashionMNIST", "mean": [0.5], "std": [0.2]}}
    config = dataset(name, root=str(tmp_path), **needed.get(name, {}))
    if name == "torchvision":
        write_fashion_mnist(tmp_path)
    source = instantiate(config.source)
    assert isinstance(source, Source) and source.name == config.name == config.get("class", name)
    assert len(config.mean) == len(config.std) == source.channels


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants(name):
    config = dataset(name)
    augment = config.augment
    assert (list(config.mean), list(config.std), augment.crop_padding, augment.flip) == CONSTANTS[name]


def test_image_data_takes_the_config_as_it_is(tmp_path):
    config = dataset("image_folder", root=str(write_tree(tmp_path / "set")), image_size=16, holdout=0.34)
    passed = ("mean", "std", "augment", "holdout", "subset", "resident", "resident_limit_gb", "workers")
    data = ImageData(instantiate(config.source), **{key: config[key] for key in passed})
    assert data.sizes == {"train": 4, "holdout": 2, "test": 6} and data.source.class_names == ["cat", "dog"]
    images, _labels = next(iter(data.train_loader(4, seed=0)))
    assert images.shape == (4, 3, 16, 16)


def test_root_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("RELINEARIZE_DATA", "/somewhere")
    assert dataset("cifar10").source.root == "/somewhere"
    monkeypatch.delenv("RELINEARIZE_DATA")
    assert dataset("cifar10").source.root == "data"
