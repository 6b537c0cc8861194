"""`dataset=torchvision`: sets of torchvision.datasets from files that the tests write, and what is refused."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_sets import IMAGENETTE, write_fashion_mnist, write_imagenette, write_svhn
from hydra import compose, initialize_config_dir
from PIL import Image
from torchvision import datasets

from relinearize.commands.count import count_sites
from relinearize.conf_folder import conf_folder
from relinearize.data.datamodule import ImageData, channel_statistics
from relinearize.data.torchvision_sets import TorchvisionImages
from relinearize.errors import UserError


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """A folder with fake files of SVHN, whose checksums torchvision takes for right."""
    write_svhn(tmp_path)
    splits = {name: [url, file, None] for name, (url, file, _md5) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", splits)
    return tmp_path


def test_fashion_mnist_is_grey_with_names(tmp_path):
    folder = write_fashion_mnist(tmp_path)
    source = TorchvisionImages("FashionMNIST", tmp_path)
    train, test = source.load("train"), source.load("test")
    assert (source.image_size, source.channels, source.classes) == (28, 1, 10)
    assert train.images.shape == (40, 28, 28, 1) and test.images.shape == (20, 28, 28, 1)
    raw = np.frombuffer((folder / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)
    assert np.array_equal(train.images[..., 0].numpy(), raw) and train.labels.tolist() == [i % 10 for i in range(40)]
    assert train.class_names[9] == "Ankle boot"


def test_grey_images_as_rgb_and_resized(tmp_path):
    write_fashion_mnist(tmp_path)
    source = TorchvisionImages("FashionMNIST", tmp_path, image_size=32, channels=3)
    images = source.load("test").images
    assert images.shape == (20, 32, 32, 3) and torch.equal(images[..., 0], images[..., 2])
    plain = TorchvisionImages("FashionMNIST", tmp_path)
    expected = Image.fromarray(plain.load("test").images[3, ..., 0].numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(images[3, ..., 0].numpy(), np.asarray(expected))
    assert plain.fingerprint() != source.fingerprint()


def test_svhn_has_split_names_and_zero_is_class_zero(svhn):
    source = TorchvisionImages("SVHN", svhn)
    train = source.load("train")
    assert train.images.shape == (30, 32, 32, 3) and train.labels[:11].tolist() == [*range(1, 10), 0, 1]
    assert source.classes == 10 and train.class_names == [str(digit) for digit in range(10)]
    assert not torch.equal(train.images, source.load("test").images)


def test_split_names_of_torchvision(svhn):
    swapped = TorchvisionImages("SVHN", svhn, train_split="test", test_split="train")
    assert torch.equal(swapped.load("test").images, TorchvisionImages("SVHN", svhn).load("train").images)
    with pytest.raises(UserError, match=r"dataset\.test_split=tst: name one of the splits of SVHN, .*'test'"):
        TorchvisionImages("SVHN", svhn, test_split="tst").check()


def test_imagenette_is_resized_and_val_is_its_test_split(tmp_path):
    write_imagenette(tmp_path)
    source = TorchvisionImages("Imagenette", tmp_path, image_size=16)
    assert source.load("train").images.shape == source.load("test").images.shape == (20, 16, 16, 3)
    assert source.class_names[0] == "tench" and source.load("test").labels.tolist() == sorted([*range(10)] * 2)


def test_sizes_that_vary_need_an_image_size(tmp_path):
    write_imagenette(tmp_path)
    with pytest.raises(UserError, match=r"Imagenette: images of .* pixels are no squares; give dataset\.image_size"):
        _ = TorchvisionImages("Imagenette", tmp_path).image_size
    first = tmp_path / "imagenette2" / "train" / IMAGENETTE[0] / f"{IMAGENETTE[0]}_0.JPEG"
    Image.new("RGB", (24, 24)).save(first)
    with pytest.raises(UserError, match=r"Imagenette, train image 1: is 31 x 40 .* dataset\.image_size=PIXELS resizes"):
        TorchvisionImages("Imagenette", tmp_path).load("train")


def test_fingerprints_follow_the_content_not_the_place(tmp_path):
    write_imagenette(tmp_path / "a")
    first = TorchvisionImages("Imagenette", tmp_path / "a", image_size=16).fingerprint()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert TorchvisionImages("Imagenette", tmp_path / "b", image_size=16).fingerprint() == first
    file = tmp_path / "b" / "imagenette2" / "val" / IMAGENETTE[3] / f"{IMAGENETTE[3]}_1.JPEG"
    file.write_bytes(file.read_bytes() + b"x")
    assert TorchvisionImages("Imagenette", tmp_path / "b", image_size=16).fingerprint() != first
    write_fashion_mnist(tmp_path)
    grey = TorchvisionImages("FashionMNIST", tmp_path).fingerprint()
    pixels = tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    pixels.write_bytes(pixels.read_bytes()[:-1] + bytes([pixels.read_bytes()[-1] ^ 1]))
    assert TorchvisionImages("FashionMNIST", tmp_path).fingerprint() != grey


def test_two_sets_share_a_root(svhn, tmp_path):
    write_fashion_mnist(tmp_path)
    for name in ("FashionMNIST", "SVHN", "FashionMNIST"):
        TorchvisionImages(name, tmp_path).load("train")
    assert len(list((tmp_path / ".relinearize").glob("*.npy"))) == 2


def test_mean_and_std_are_those_of_the_training_images(tmp_path):
    write_fashion_mnist(tmp_path)
    source = TorchvisionImages("FashionMNIST", tmp_path)
    pixels = source.load("train").images / 255
    mean, std = channel_statistics(source)
    assert mean == [pytest.approx(pixels.mean().item(), abs=6e-5)] == [round(mean[0], 4)]
    assert std == [pytest.approx(pixels.std().item(), abs=6e-5)]


def test_streamed_images_and_their_statistics(tmp_path):
    write_imagenette(tmp_path)
    source = TorchvisionImages("Imagenette", tmp_path, image_size=14, stream=True)
    mean, std = channel_statistics(source)
    augment = {"random_resized_crop": True, "flip": True}
    data = ImageData(source, mean=mean, std=std, augment=augment, workers=0, holdout=0.5)
    images, labels = next(iter(data.train_loader(4, seed=0)))
    assert images.shape == (4, 3, 14, 14) and len(labels) == 4 and not (tmp_path / ".relinearize").exists()


def test_counting_decodes_nothing(tmp_path):
    write_imagenette(tmp_path)
    words = ["dataset=torchvision", "dataset.class=Imagenette", "dataset.image_size=16", f"dataset.root={tmp_path}"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", [*words, "backbone=resnet8"])
    assert math.prod(count_sites(config, None)["relu1"]) == 16 * 16 * 16
    assert not (tmp_path / ".relinearize").exists()


def test_download_is_torchvisions(tmp_path, monkeypatch):
    asked = []

    def fetch(dataset):
        assert dataset.root != tmp_path
        asked.append(1)
        write_fashion_mnist(Path(dataset.root))

    monkeypatch.setattr(datasets.FashionMNIST, "download", fetch)
    source = TorchvisionImages("FashionMNIST", tmp_path, download=True)
    source.check()
    TorchvisionImages("FashionMNIST", tmp_path, download=True).check()
    assert len(asked) == 1


def test_an_interrupted_download_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def fetch(dataset, *_):
        write_imagenette(Path(dataset.root))
        if not (tmp_path / "archive.tgz").exists():
            raise KeyboardInterrupt
        assert (Path(dataset.root) / "archive.tgz").read_text() == "the user's"

    monkeypatch.setattr(datasets.Imagenette, "_download", fetch)
    with pytest.raises(KeyboardInterrupt):
        TorchvisionImages("Imagenette", tmp_path, download=True, image_size=14).check()
    assert not list(tmp_path.glob("[!.]*"))
    (tmp_path / "archive.tgz").write_text("the user's")
    TorchvisionImages("Imagenette", tmp_path, download=True, image_size=14).check()
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["archive.tgz", "imagenette2"]
    assert not (tmp_path / "archive.tgz").is_symlink()


def test_damaged_files_of_a_set_are_fetched_again_and_archives_in_its_folder_are_taken(tmp_path, monkeypatch):
    def fetch(dataset):
        root = Path(dataset.root)
        assert (root / "FashionMNIST" / "raw" / "images.gz").read_text() == "the user's" and root != tmp_path
        shutil.move(write_fashion_mnist(root / "other"), root / "moved")
        for file in (root / "moved").iterdir():
            file.rename(root / "FashionMNIST" / "raw" / file.name)

    folder = write_fashion_mnist(tmp_path)
    (folder / "images.gz").write_text("the user's")
    (folder / "train-images-idx3-ubyte").write_bytes(b"")
    monkeypatch.setattr(datasets.FashionMNIST, "download", fetch)
    TorchvisionImages("FashionMNIST", tmp_path, download=True).check()
    assert (folder / "images.gz").read_text() == "the user's" and not (folder / "images.gz").is_symlink()


@pytest.mark.parametrize("damaged", [0, -1])
def test_a_damaged_image_is_named(tmp_path, damaged):
    write_imagenette(tmp_path)
    path = sorted((tmp_path / "imagenette2" / "train").rglob("*.JPEG"))[damaged]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"Imagenette image \d+: cannot be decoded"):
        TorchvisionImages("Imagenette", tmp_path, image_size=14).check()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("FashionMnist", {}, r"dataset\.class=FashionMnist: no set of torchvision\.datasets; some are FashionMNIST"),
        ("?", {}, r"some are FashionMNIST, SVHN, Imagenette"),
        ("CIFAR10", {}, "use dataset=cifar10"),
        ("FakeData", {}, r"dataset\.class=FakeData: torchvision has no test split of it"),
        ("SEMEION", {}, "no test split"),
        ("CocoDetection", {}, "no test split"),
        ("SVHN", {}, r"SVHN is not there, or damaged .*dataset\.root .*dataset\.download=true"),
        ("FashionMNIST", {}, "FashionMNIST is not there, or damaged"),
        ("ImageNet", {}, "ImageNet is not there, or damaged .*torchvision cannot fetch it"),
        ("Flowers102", {"options": {"size": 3}}, r"cannot be opened .*dataset\.options"),
        (
            "EMNIST",
            {"options": {"split": "letter"}},
            r"^dataset\.options of EMNIST: Unknown value 'letter' for argument",
        ),
        (
            "FashionMNIST",
            {"test_split": "train"},
            r"dataset\.test_split=train: FashionMNIST has no names of splits; leave it out",
        ),
        ("SVHN", {"image_size": 0}, r"dataset\.image_size=0"),
        ("SVHN", {"channels": 2}, r"dataset\.channels=2: valid are 1, 3"),
    ],
)
def test_refusals(tmp_path, name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        TorchvisionImages(name, tmp_path, **options).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_lies_on_white(tmp_path, monkeypatch, channels):
    class Shapes(datasets.FakeData):
        def __init__(self, root, split="train"):
            super().__init__(4, (3, 8, 8), num_classes=2)
            self.data, self.targets = np.arange(4, dtype=np.uint8).reshape(4, 1, 1), [0, 1, 0, 1]

        def __getitem__(self, index):
            return Image.new("RGBA", (8, 8), (0, 0, 0, 255 * (index % 2))), index % 2

    monkeypatch.setattr(datasets, "FakeData", Shapes)
    images = TorchvisionImages("FakeData", tmp_path, channels=channels).load("train").images
    assert [image.unique().tolist() for image in images] == [[255], [0], [255], [0]]


def test_items_that_are_no_classes_are_refused(tmp_path, monkeypatch):
    class Boxes(datasets.FakeData):
        def __init__(self, root, split="train"):
            super().__init__(4, (3, 8, 8))

        def __getitem__(self, index):
            return super().__getitem__(index)[0], {"boxes": []}

    monkeypatch.setattr(datasets, "VOCDetection", Boxes)
    with pytest.raises(UserError, match=r"VOCDetection: its items are not an image and a class number"):
        TorchvisionImages("VOCDetection", tmp_path).check()


def test_a_set_that_does_not_list_its_images_is_refused_before_they_are_read(tmp_path, monkeypatch):
    read = []

    class Unlisted(datasets.FakeData):  # as PCAM, whose images lie in one file
        def __init__(self, root, split="train"):
            super().__init__(1000, (3, 8, 8))

        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)[0], index % 2

    monkeypatch.setattr(datasets, "PCAM", Unlisted)
    with pytest.raises(UserError, match=r"dataset\.class=PCAM: the set does not list its images"):
        TorchvisionImages("PCAM", tmp_path).check()
    assert len(read) < 10


def test_a_run_with_computed_normalisation(tmp_path):
    from relinearize.runs.finished import FinishedRun
    from relinearize.runs.pipeline import run

    write_fashion_mnist(tmp_path)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", [
            "dataset=torchvision", "dataset.class=FashionMNIST", f"dataset.root={tmp_path}", f"output={tmp_path}",
            "backbone.width=2", "method=random", "dataset.holdout=0.25", "method.teacher.epochs=1",
            "method.finetune.epochs=1", "method.teacher.batch_size=16", "method.finetune.batch_size=16",
            "budget.fraction=0.5", "trainer.accelerator=cpu", "trainer.progress=none", "logger=none",
        ])  # fmt: skip
    record, folder = run(config)
    assert record.dataset.name == "FashionMNIST" and record.dataset.train == 30
    mean, std = channel_statistics(TorchvisionImages("FashionMNIST", tmp_path))
    finished = FinishedRun.open(folder)
    assert (list(finished.config.dataset.mean), list(finished.config.dataset.std)) == (mean, std)
