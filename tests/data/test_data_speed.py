"""Throughput of the resident loader on one thread, on random images of CIFAR's size.

pytest -m slow -s tests/data/test_data_speed.py
"""

import time

import pytest
import torch

from relinearize.data.loaders import TrainLoader
from relinearize.data.training_images import ResidentImages


@pytest.mark.slow
def test_images_per_second_on_one_thread():
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8)
    loader = TrainLoader(ResidentImages(images, torch.zeros(50_000, dtype=torch.int64), padding=4), 128, 0, flip=True)
    fastest = 0.0
    for _epoch in range(3):
        start = time.process_time()
        count = sum(len(labels) for _images, labels in loader)
        fastest = max(fastest, count / (time.process_time() - start))
    print(f"\n{fastest:,.0f} images/s on one thread (of processor time; the aim is 50,000)")
    assert fastest > 20_000
