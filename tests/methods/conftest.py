"""A trained teacher for runs; small networks and batches in float64, for the formulas written out (reference.py)."""

import shutil

import pytest
import torch
from quick_runs import SMALL
from reference import SmallNetwork

from relinearize.relu.sites import linearize


@pytest.fixture(scope="session")
def taught(shared_run, tmp_path_factory):
    """taught() -> a new folder, in whose store quick runs find their teacher."""
    _, trained = shared_run(f"alone-{SMALL}", f"budget.fraction={SMALL}")

    def new():
        folder = tmp_path_factory.mktemp("taught")
        shutil.copytree(trained.parents[1] / "store" / "teacher", folder / "store" / "teacher")
        return folder

    return new


@pytest.fixture
def networks():
    """(student, teacher): linearized, with different weights so that the distillation term is at work."""
    torch.manual_seed(5)
    student, teacher = (linearize(SmallNetwork(2, 4, 3), (2, 5, 5)).double() for _ in range(2))
    return student, teacher.eval().requires_grad_(False)


@pytest.fixture
def batches():
    """Three of six images."""
    torch.manual_seed(6)
    return [(torch.randn(6, 2, 5, 5, dtype=torch.float64), torch.randint(3, (6,))) for _ in range(3)]
