"""Settings shared by all tests."""

import os

# Two torch threads on a busy two-core machine can be ten times slower than one for small tensors.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    torch.set_num_threads(1)
