"""The loaders' AugMix view: the ordinary batch unchanged beside it, a crop and flip of its own, replay and shards."""

import hashlib

import pytest
import torch

from relinearize.data.augmix import draw_augmix, mixed
from relinearize.data.datamodule import ImageData
from relinearize.data.digits import Digits
from relinearize.data.loaders import TrainLoader
from relinearize.data.order import seeded_generator
from relinearize.data.training_images import ResidentImages, StreamedImages
from relinearize.errors import UserError


def images_and_labels(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    return (torch.arange(count * 8 * 8 * 3) * 7919 % 251).to(torch.uint8).view(count, 8, 8, 3), torch.arange(count)


def resident(second_view="augmix", **options) -> TrainLoader:
    images = ResidentImages(*images_and_labels(), padding=2)
    return TrainLoader(images, 16, 7, flip=True, second_view=second_view, **options)


def equal(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        len(mine) == len(other) and all(map(torch.equal, mine, other)) for mine, other in zip(ours, theirs, strict=True)
    )


@pytest.mark.slow
def test_without_a_second_view_the_batches_are_what_they_always_were():
    digest, loader = hashlib.sha256(), resident(None)
    for _epoch in range(2):
        for images, labels in loader:
            digest.update((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy().tobytes())
            digest.update(labels.numpy().tobytes())
    assert digest.hexdigest() == "d3f2e4c53bff4c7550fb8b1d0417e43d7f9f9f2464da203eb225f750df669c4a"


@pytest.mark.slow
def test_the_ordinary_batch_stands_unchanged_beside_the_second_view():
    for (images, labels, view), (plain, plain_labels) in zip(resident(), resident(None), strict=True):
        assert torch.equal(images, plain) and torch.equal(labels, plain_labels)
        assert view.shape == images.shape and view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert view.min() >= 0 and view.max() <= 1 and not torch.equal(view, images)


@pytest.mark.slow
def test_the_second_view_is_augmix_of_the_same_images_under_another_crop_and_flip():
    """Recomputed from the padded image and the second crop, which must be neither the first nor tied to it."""
    loader = resident()
    same = flips_alike = total = 0
    for batch, (plan, (_images, labels, view)) in enumerate(zip(list(loader._plans(0, 0)), loader, strict=True)):
        padded = torch.nn.functional.pad(images_and_labels()[0].permute(0, 3, 1, 2), (2, 2, 2, 2))
        windows = []
        for row, (top, left, flip) in zip(labels.tolist(), plan.views[1].tolist(), strict=True):
            window = padded[row, :, top : top + 8, left : left + 8]
            windows.append(window.flip(2) if flip else window)
        draw = draw_augmix(len(labels), seeded_generator("augmix", 7, 0, batch))
        assert torch.equal(view, mixed(torch.stack(windows).permute(0, 2, 3, 1), draw))
        alike = plan.views[0] == plan.views[1]
        same += alike.all(1).sum().item()
        flips_alike += alike[:, 2].sum().item()
        total += len(labels)
    assert total == 50 and same < 8 and 12 < flips_alike < 38


def test_seek_replays_the_second_view_and_epochs_differ():
    loader = resident(parts=2)
    history = {(epoch, part): list(loader) for epoch in range(2) for part in range(2)}
    for epoch, part in [(1, 1), (0, 1), (1, 0)]:
        fresh = resident(parts=2)
        fresh.seek(epoch, part)
        assert equal(list(fresh), history[epoch, part])
    assert not torch.equal(history[0, 0][0][2], history[1, 0][0][2])


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_make_the_batch_of_one_process(world_size):
    whole = list(resident())
    for rank in range(world_size):
        shard = list(resident(rank=rank, world_size=world_size))
        assert equal(shard, [tuple(tensor[rank::world_size] for tensor in batch) for batch in whole])


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_yields_the_same(workers):
    streamed = StreamedImages(*images_and_labels(), padding=2, workers=workers)
    assert equal(list(TrainLoader(streamed, 16, 7, flip=True, second_view="augmix")), list(resident()))


def test_image_data_hands_it_out():
    settings = {"mean": [0.3], "std": [0.4], "augment": {"crop_padding": 1, "flip": False}}
    data = ImageData(Digits(), subset=40, **settings)
    before = torch.get_rng_state()
    images, labels, view = next(iter(data.train_loader(16, 0, second_view="augmix")))
    assert images.shape == view.shape == (16, 1, 8, 8) and labels.shape == (16,)
    assert torch.equal(before, torch.get_rng_state())
    streamed = ImageData(Digits(), subset=40, resident=False, workers=0, **settings)
    ours, theirs = (list(source.train_loader(16, 0, second_view="augmix")) for source in (data, streamed))
    assert equal(ours, theirs)
    with pytest.raises(UserError, match="second_view=cutmix"):
        data.train_loader(16, 0, second_view="cutmix")


@pytest.mark.gpu
def test_gpu_sees_the_same_second_view():
    on_gpu = TrainLoader(
        ResidentImages(*images_and_labels(), padding=2, device="cuda"), 16, 7, flip=True, second_view="augmix"
    )
    for cpu, gpu in zip(resident(), on_gpu, strict=True):
        assert torch.equal(gpu[0].cpu(), cpu[0]) and (gpu[2].cpu() - cpu[2]).abs().max() < 1e-6
