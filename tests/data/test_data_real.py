"""The real sets, where RELINEARIZE_TEST_DATA names a folder that holds them (verify=false: copies may differ)."""

import os
import time
from pathlib import Path

import pytest
import torch

from relinearize.data.cifar import CIFAR10, CIFAR100
from relinearize.data.datamodule import ImageData
from relinearize.data.tiny_imagenet import TinyImageNet

ROOT = os.environ.get("RELINEARIZE_TEST_DATA")
pytestmark = pytest.mark.skipif(ROOT is None, reason="RELINEARIZE_TEST_DATA is not set")
AUGMENT = {"crop_padding": 4, "flip": True}


@pytest.mark.parametrize("source_class", [CIFAR10, CIFAR100, TinyImageNet])
def test_real_set(source_class):
    source = source_class(ROOT, verify=False)
    if not Path(source.path).exists():
        pytest.skip(f"{source.path} is not there")
    data = ImageData(source, mean=[0.5] * 3, std=[0.25] * 3, augment=AUGMENT)
    sizes = data.sizes
    assert sizes["train"] == 9 * sizes["holdout"] >= 45000 and sizes["test"] >= 5000
    held_out = torch.cat([labels for _images, labels in data.holdout_loader()])
    assert held_out.bincount(minlength=source.classes).unique().numel() <= 2
    images = torch.cat([images for images, _labels in data.test_loader()])
    assert images.shape[1:] == (3, source.image_size, source.image_size)
    assert images.mean().item() == pytest.approx(0.46, abs=0.05)  # photographs
    resident = data.train_loader(128, seed=0)
    streamed = ImageData(source, mean=[0.5] * 3, std=[0.25] * 3, augment=AUGMENT, resident=False).train_loader(128, 0)
    for (ours, our_labels), (theirs, their_labels), _count in zip(resident, streamed, range(20), strict=False):
        assert torch.equal(ours, theirs) and torch.equal(our_labels, their_labels)


def test_fingerprint_of_cifar_is_fast():
    source = CIFAR10(ROOT, verify=False)
    if not source.path.exists():
        pytest.skip(f"{source.path} is not there")
    source.fingerprint()  # the files may have to be read from the disk first
    start = time.perf_counter()
    CIFAR10(ROOT, verify=False).fingerprint()
    assert time.perf_counter() - start < 2
