"""The training loaders: every image once, crops per image, replay, shards, and both paths alike."""

import itertools
import os
import signal

import pytest
import torch

from relinearize.data.augment import crop_and_flip, draw_augmentation, pad_with_zeros, to_pixels
from relinearize.data.loaders import OrderedLoader, TrainLoader, evaluation_batch
from relinearize.data.order import batch_bounds, part_bounds
from relinearize.data.training_images import ResidentImages, StreamedImages
from relinearize.errors import UserError


def numbered_images(count: int, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Random RGB images of values 1..255 (so that zeros are padding), labelled by their own number."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count)


def resident(count: int = 50, batch_size: int = 16, seed: int = 0, padding: int = 2, **options) -> TrainLoader:
    return TrainLoader(ResidentImages(*numbered_images(count), padding=padding), batch_size, seed, **options)


def equal(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(ours, theirs, strict=True)
    )


def test_batches_are_pixels_in_channels_last():
    images, labels = next(iter(resident()))
    assert images.shape == (16, 3, 6, 6) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("parts", [1, 3, 4, 9])
@pytest.mark.parametrize("count", [50, 49, 48, 2])
def test_every_image_once_per_epoch_over_all_parts(count, parts):
    loader = resident(count, parts=parts)
    for _epoch in range(2):
        seen = torch.cat([labels for _part in range(parts) for _images, labels in loader] or [torch.empty(0)])
        assert sorted(seen.tolist()) == list(range(count))


def test_epochs_differ_and_parts_are_consecutive():
    whole, parted = resident(), resident(parts=3)
    first, second = list(whole), list(whole)
    assert not torch.equal(first[0][1], second[0][1])
    assert equal([batch for _ in range(3) for batch in parted], first)
    assert len(parted) == 2 and parted.batches_per_epoch == 4
    assert part_bounds(4, 3) == [0, 2, 3, 4]


def test_seek_replays_any_position_bit_for_bit():
    loader = resident(parts=2, flip=True)
    history = {(epoch, part): list(loader) for epoch in range(3) for part in range(2)}
    for epoch, part in [(2, 1), (0, 0), (1, 1)]:
        fresh = resident(parts=2, flip=True)
        fresh.seek(epoch, part)
        assert equal(list(fresh), history[epoch, part])


def test_seek_counts_until_the_first_batch_is_asked_for():
    loader = resident(flip=True)
    expected = [list(loader) for _epoch in range(6)][5]
    batches = iter(loader)
    loader.seek(5, 0)
    assert equal(list(batches), expected)
    with pytest.raises(ValueError, match="part=1"):
        loader.seek(0, 1)


def test_seeds_differ():
    assert not torch.equal(next(iter(resident(seed=1)))[1], next(iter(resident(seed=2)))[1])


def test_crops_and_flips_differ_between_the_images_of_a_batch():
    ramp = torch.arange(1, 65, dtype=torch.uint8).view(1, 8, 8, 1).expand(64, 8, 8, 1)
    loader = TrainLoader(ResidentImages(ramp, torch.zeros(64, dtype=torch.int64), padding=2), 64, 0, flip=True)
    images, _labels = next(iter(loader))
    distinct = {tuple(image.flatten().tolist()) for image in images}
    assert len(distinct) > 30  # of 5 * 5 * 2 = 50 possible; one crop for the whole batch would give 1 or 2
    mirrored = [(row := image[0, 4])[row > 0].diff()[0] < 0 for image in images]
    assert 16 < sum(mirrored) < 48


def test_every_crop_is_a_window_of_the_zero_padded_image():
    images, labels = numbered_images(40)
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2), (2, 2, 2, 2))
    seen = set()
    loader = TrainLoader(ResidentImages(images, labels, padding=2), 40, 3, flip=True)
    for crops, numbers in itertools.chain(loader, loader):
        for crop, number in zip((crops * 255).round().to(torch.uint8), numbers.tolist(), strict=True):
            found = [
                (top, left, flip)
                for top, left, flip in itertools.product(range(5), range(5), (0, 1))
                if torch.equal(window(padded[number], top, left, flip), crop)
            ]
            assert len(found) == 1
            seen.update(found)
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))


def window(padded: torch.Tensor, top: int, left: int, flip: int) -> torch.Tensor:
    crop = padded[:, top : top + 6, left : left + 6]
    return crop.flip(2) if flip else crop


def test_padding_is_zero_and_no_augmentation_is_the_image_itself():
    images, labels = numbered_images(5)
    padded = pad_with_zeros(images, 3)
    assert torch.equal(padded[:, 3:9, 3:9], images) and padded.sum() == images.sum()
    assert torch.equal(ResidentImages(images, labels, padding=3).padded, padded)
    loader = TrainLoader(ResidentImages(images, labels), 5, 0)
    pixels, numbers = next(iter(loader))
    assert torch.equal(pixels, to_pixels(images)[numbers])


def test_crop_by_hand():
    padded = pad_with_zeros(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(1, 2, 2, 1), 1)
    crops = crop_and_flip(padded, torch.tensor([0, 0]), torch.tensor([[0, 2, 0], [1, 1, 1]]), padding=1)
    assert crops[..., 0].tolist() == [[[0, 0], [2, 0]], [[2, 1], [4, 3]]]


def test_flip_switch_does_not_shift_the_crops():
    with_flips, without = (draw_augmentation(32, 4, flip, torch.Generator().manual_seed(1)) for flip in (True, False))
    assert torch.equal(with_flips[:, :2], without[:, :2]) and without[:, 2].sum() == 0 < with_flips[:, 2].sum()


@pytest.mark.parametrize("count", range(2, 70))
@pytest.mark.parametrize("batch_size", [2, 3, 16])
def test_no_batch_of_one_image(count, batch_size):
    sizes = torch.tensor(batch_bounds(count, batch_size)).diff()
    assert sizes.sum() == count and sizes.min() >= 2 and sizes.max() <= max(3, batch_size)


def test_batch_sizes_of_cifar():
    assert torch.tensor(batch_bounds(50000, 128)).diff().unique().tolist() == [80, 128]
    assert torch.tensor(batch_bounds(129, 128)).diff().tolist() == [65, 64]
    assert torch.tensor(batch_bounds(10000, 128)).diff()[-3:].tolist() == [128, 72, 72]


def test_short_batch_as_in_the_released_codes():
    assert torch.tensor(batch_bounds(10000, 128, short_batch=True)).diff()[-3:].tolist() == [128, 128, 16]
    assert torch.tensor(batch_bounds(129, 128, short_batch=True)).diff().tolist() == [65, 64]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 8), (10, 1)])
def test_too_small_batches_are_refused(count, batch_size):
    with pytest.raises(UserError, match="at least 2"):
        resident(count, batch_size)


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_do_not_overlap_and_make_the_batch_of_one_process(world_size):
    whole = list(resident(flip=True))
    shards = [list(resident(flip=True, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for batch, (images, labels) in enumerate(whole):
        pieces = [shard[batch] for shard in shards]
        assert sorted(torch.cat([piece[1] for piece in pieces]).tolist()) == sorted(labels.tolist())
        for rank, (shard_images, shard_labels) in enumerate(pieces):
            assert torch.equal(shard_labels, labels[rank::world_size])
            assert torch.equal(shard_images, images[rank::world_size])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_weighed_means_of_the_shards_are_the_mean_of_the_batch(world_size):
    whole = resident(61, 16, parts=2)
    shards = [resident(61, 16, parts=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    for part in range(2):
        for batch, ((_, labels), *pieces) in enumerate(zip(whole, *shards, strict=True)):
            means = [
                shard.weight(part, batch) * own.double().mean() for shard, (_, own) in zip(shards, pieces, strict=True)
            ]
            assert sum(means) / world_size == pytest.approx(labels.double().mean())


@pytest.mark.parametrize(
    ("count", "settings"), [(64, {"world_size": 9}), (18, {"short_batch": True, "shares": 3}), (64, {"shares": 9})]
)
def test_batches_too_small_for_their_parts(count, settings):
    with pytest.raises(UserError, match="larger batch_size"):
        resident(count, 16, **settings)


@pytest.mark.parametrize("settings", [{"world_size": 3}, {"shares": 3}])
def test_too_few_images_for_their_parts(settings):
    with pytest.raises(UserError, match=r"^only 5 training images: .*; give more images, fewer devices"):
        resident(5, 16, **settings)


@pytest.mark.parametrize(
    ("device", "size", "images"), [("cpu", 32, 250), ("cpu", 224, 20), ("cuda", 64, 1000), ("cuda", 224, 81)]
)
def test_fewer_large_images_are_evaluated_at_once(device, size, images):
    assert evaluation_batch(device, torch.empty(1, size, size, 3)) == images
    twice = {"cpu": 500, "cuda": 2000}
    assert evaluation_batch(device, torch.empty(1, size, size, 3), twice) // 2 == images


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_yields_the_same_batches_bit_for_bit(workers):
    images, labels = numbered_images(60)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(5))[:50]
    options = dict(flip=True, parts=2)
    ours = TrainLoader(ResidentImages(images, labels, padding=2, rows=rows), 16, 7, **options)
    theirs = TrainLoader(StreamedImages(images, labels, padding=2, rows=rows, workers=workers), 16, 7, **options)
    assert len(ours) == len(theirs)
    for _part in range(3):
        assert equal(list(ours), list(theirs))
    for loader in (ours, theirs):
        loader.seek(9, 1)
    expected = list(ours)
    abandoned = iter(theirs)
    next(abandoned)
    theirs.seek(9, 1)
    assert equal(list(theirs), expected)


def test_streaming_shards():
    images, labels = numbered_images(50)
    options = dict(rank=1, world_size=2)
    ours = TrainLoader(ResidentImages(images, labels, padding=1), 16, 7, **options)
    theirs = TrainLoader(StreamedImages(images, labels, padding=1, workers=0), 16, 7, **options)
    assert equal(list(ours), list(theirs))


def test_drawn_images_are_of_all_classes_of_a_sorted_set():
    images, labels = torch.zeros(400, 2, 2, 3, dtype=torch.uint8), torch.arange(400) // 20
    held_out = torch.arange(0, 400, 2)
    drawn = OrderedLoader(images, torch.arange(400), 50, rows=held_out, drawn=True)
    order = torch.cat([rows for _, rows in drawn])
    assert len(labels[order[:50]].unique()) > 15 and torch.equal(order.sort().values, held_out)
    for rank in range(2):  # of two processes
        share = OrderedLoader(images, torch.arange(400), 50, rows=held_out, drawn=True, rank=rank, world_size=2)
        assert torch.equal(torch.cat([rows for _, rows in share]), order[rank::2])


def test_loaders_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    images, labels = numbered_images(20)
    list(resident(20, flip=True))
    list(TrainLoader(StreamedImages(images, labels, workers=0), 8, 0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.gpu
def test_gpu_draws_the_same_crops():
    images, labels = numbered_images(50)
    on_cpu = TrainLoader(ResidentImages(images, labels, padding=2), 16, 7, flip=True)
    on_gpu = TrainLoader(ResidentImages(images, labels, padding=2, device="cuda"), 16, 7, flip=True)
    streamed = TrainLoader(StreamedImages(images, labels, padding=2, device="cuda", workers=1), 16, 7, flip=True)
    for cpu, gpu, stream in zip(on_cpu, on_gpu, streamed, strict=True):
        assert gpu[0].is_cuda and torch.equal(cpu[0], gpu[0].cpu()) and torch.equal(cpu[1], gpu[1].cpu())
        assert torch.equal(gpu[0], stream[0]) and torch.equal(gpu[1], stream[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_the_whole_group_leaves_the_reading_workers(number):
    """Slurm and `timeout` send it to all; the first process saves the training before it ends."""
    images, labels = torch.zeros(40, 8, 8, 3, dtype=torch.uint8), torch.arange(40)
    streamed = StreamedImages(images, labels, workers=1)
    loader = TrainLoader(streamed, 10, 7)
    loader.seek(0)
    batches = iter(loader)
    seen = [next(batches)[1]]
    (worker,) = streamed._reader._loader._iterator._workers
    os.kill(worker.pid, number)
    seen += [labels for _, labels in batches]
    assert torch.cat(seen).sort().values.equal(labels) and worker.is_alive()
