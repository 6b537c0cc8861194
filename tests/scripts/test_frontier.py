"""scripts/frontier.sh: an arm and the controls, side by side, and what is left of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relinearize.records.run import find_records
from relinearize.relu.mask import Mask

ROOT = Path(__file__).parents[2]
SHORT = [
    "dataset=digits",
    "backbone=resnet8",
    "budget.grid=[0.1]",
    "scale=debug",
    "total_epochs=2",
    "method.teacher.epochs=1",
]


@pytest.mark.slow
def test_arms_are_run_and_their_records_collected(tmp_path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [
        ROOT / "scripts/frontier.sh",
        "unused",
        tmp_path,
        "10",
        "2",
        "BUDGETS=0.1",
        "ARMS=random+retrain",
        *SHORT,
    ]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    runs = find_records([tmp_path / "runs"])
    assert [(record.method.name, record.budget.met) for _, record in runs] == [
        ("no-relu+quadratic", 0), ("none+retrain", 3584), ("random+retrain", 358),
    ]  # fmt: skip
    assert all((path.parent / "mask.safetensors").is_file() for path, _ in runs)
    assert not list((tmp_path / "runs").rglob("weights.safetensors"))
    (mask,) = tmp_path.glob("masks/randommask-*-budget-358.safetensors")
    assert Mask.from_file(mask)[0].count == 358
