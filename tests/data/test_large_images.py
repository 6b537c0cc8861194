"""Large images: decoded for each batch, RandomResizedCrop in training, Resize and CenterCrop else; replay; a run."""

import itertools

import numpy as np
import pytest
import torch
from fake_sets import write_imagenet, write_tree
from hydra import compose, initialize_config_dir
from PIL import Image
from torchvision import transforms

from relinearize.conf_folder import conf_folder
from relinearize.data.augment import random_resized_crop
from relinearize.data.datamodule import ImageData
from relinearize.data.digits import Digits
from relinearize.data.image_folder import ImageFolder
from relinearize.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_imagenet(tmp_path_factory.mktemp("imagenet"))


def data(root, workers: int = 0, augment=None, **options) -> ImageData:
    source = ImageFolder(root, image_size=28, stream=True)
    augment = {"random_resized_crop": True, "flip": True} if augment is None else augment
    return ImageData(source, mean=[0.5] * 3, std=[0.2] * 3, augment=augment, workers=workers, **options)


def equal(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        len(mine) == len(other) and all(map(torch.equal, mine, other)) for mine, other in zip(ours, theirs, strict=True)
    )


def test_evaluation_is_resize_and_centre_crop(root):
    batches = list(data(root, holdout=0).test_loader(10))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.shape == (24, 3, 28, 28) and labels.tolist() == [label for label in range(4) for _ in range(6)]
    assert images.is_contiguous(memory_format=torch.channels_last)
    file = root / "val" / "n00000002" / "n00000002_1.JPEG"
    crop = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(28), transforms.ToTensor()])
    assert torch.equal(images[13], crop(Image.open(file)))


def test_holdout_and_sizes(root):
    images = data(root, holdout=0.25)
    assert images.sizes == {"train": 18, "holdout": 6, "test": 24} and not images.is_resident
    assert len(torch.cat([labels for _, labels in images.holdout_loader(4)])) == 6


def test_training_crops_are_torchvisions(root):
    with Image.open(root / "train" / "n00000000" / "n00000000_3.JPEG") as image:
        image.load()
    ours = np.asarray(random_resized_crop(image, 5, 28, 0.08, flip=True))
    state = torch.get_rng_state()
    torch.manual_seed(5)
    theirs = transforms.RandomHorizontalFlip()(transforms.RandomResizedCrop(28)(image))
    torch.set_rng_state(state)
    assert np.array_equal(ours, np.asarray(theirs))
    again = np.asarray(random_resized_crop(image, 6, 28, 0.08, flip=True))
    assert not np.array_equal(ours, again)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_position_is_replayed_bit_for_bit(root, workers):
    images = data(root, workers, holdout=0)
    loader = images.train_loader(8, seed=3, parts=2)
    history = {(epoch, part): list(loader) for epoch in range(2) for part in range(2)}
    fresh = data(root, holdout=0).train_loader(8, seed=3, parts=2)
    for epoch, part in [(1, 1), (0, 0), (1, 0)]:
        fresh.seek(epoch, part)
        assert equal(list(fresh), history[epoch, part])
    assert not torch.equal(history[0, 0][0][0], history[1, 0][0][0])


def test_every_image_has_a_crop_of_its_own_and_is_seen_once(root):
    loader = data(root, holdout=0).train_loader(8, seed=0)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert labels.bincount().tolist() == [6] * 4
    assert len({tuple(image.flatten().tolist()) for image in images}) == 24


def test_shards_make_the_batch_of_one_process(root):
    images = data(root, holdout=0)
    whole = list(images.train_loader(8, seed=0))
    for rank in range(2):
        shard = list(images.train_loader(8, seed=0, rank=rank, world_size=2))
        assert equal(shard, [tuple(tensor[rank::2] for tensor in batch) for batch in whole])


def test_second_view_is_another_crop(root):
    images = data(root, holdout=0)
    (pixels, _, view), (plain, _) = (
        next(iter(images.train_loader(8, 0, second_view=view))) for view in ("augmix", None)
    )
    assert torch.equal(pixels, plain) and view.shape == pixels.shape and not torch.equal(view, pixels)


def test_a_larger_smallest_area_changes_the_crops_but_not_the_order(root):
    usual, large = (
        next(iter(data(root, holdout=0, augment={"random_resized_crop": area}).train_loader(8, 0)))
        for area in (True, 0.9)
    )
    assert torch.equal(usual[1], large[1]) and not torch.equal(usual[0], large[0])


def test_global_random_state_is_left_alone(root):
    before = torch.get_rng_state()
    list(data(root, holdout=0).train_loader(8, 0))
    assert torch.equal(before, torch.get_rng_state())


def test_padded_crops_of_streamed_images(root):
    """Windows of the central crop of evaluation, with zeros around it."""
    crop = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(28), transforms.Pad(2)])
    files = sorted((root / "train").glob("*/*"))
    padded = torch.stack([transforms.functional.to_tensor(crop(Image.open(file))) for file in files])
    augment = {"crop_padding": 2, "flip": False}
    images, labels = next(iter(data(root, augment=augment, holdout=0).train_loader(8, 0)))
    assert images.shape == (8, 3, 28, 28)
    rows, corners = [], set()
    for image in images:
        for top, left in itertools.product(range(5), range(5)):
            found = (padded[:, :, top : top + 28, left : left + 28] == image).flatten(1).all(1).nonzero()
            rows += found.flatten().tolist()
            corners |= {(top, left)} if len(found) else set()
    assert len(rows) == len(set(rows)) == 8 and [row // 6 for row in rows] == labels.tolist()
    assert len(corners) > 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_the_batch_that_needs_it(tmp_path, workers):
    root = write_tree(tmp_path / "set")
    (root / "train" / "dog" / "1.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"dog.1\.png: cannot be decoded") as caught:
        list(data(root, workers, holdout=0).train_loader(6, 0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"random_resized_crop": 1.5}, r"random_resized_crop=1\.5: valid are true, false and the smallest share"),
        ({"random_resized_crop": "yes"}, "random_resized_crop=yes"),
        ({"random_resized_crop": True, "crop_padding": 4}, "exclude each other"),
    ],
)
def test_bad_settings_are_named(root, augment, message):
    with pytest.raises(UserError, match=message) as caught:
        data(root, augment=augment)
    assert "\n" not in str(caught.value)


def test_sets_of_small_images_have_no_resized_crops():
    with pytest.raises(UserError, match="the images of digits have one size; use crop_padding"):
        ImageData(Digits(), mean=[0.3], std=[0.4], augment={"random_resized_crop": True})


@pytest.mark.slow
def test_streamed_images_cannot_be_resident(root):
    with pytest.raises(UserError, match=r"dataset\.resident=true: images that are decoded for each batch"):
        data(root, resident=True).train_loader(8, 0)


@pytest.mark.slow
def test_two_steps_of_the_papers_imagenet_run(root, tmp_path):
    """The experiment on files in ImageNet's layout, at 64 pixels: every stage makes its steps, the budget is met."""
    from relinearize.runs.pipeline import run

    stages = ("teacher", "search", "finetune")
    small = [f"method.{stage}.{key}" for stage in stages for key in ("epochs=1", "batch_size=12")]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", [
            "experiment=paper/senet_imagenet_resnet18", f"dataset.root={root}", "dataset.image_size=64",
            "dataset.holdout=0.25", "dataset.workers=0", "sensitivity.epochs=1", "sensitivity.batch_size=12",
            "sensitivity.updates_per_epoch=1", "budget.relus=20000", f"output={tmp_path}", "trainer.accelerator=cpu",
            "trainer.precision=32", "trainer.progress=none", "logger=none", *small,
        ])  # fmt: skip
    record, _ = run(config)
    assert record.budget.met == record.budget.asked == 20_000
    assert (record.dataset.name, record.dataset.train, record.dataset.test) == ("imagenet", 18, 24)
