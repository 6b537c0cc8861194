"""A finished run is found again without PyTorch, and only by what leads to the very same run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from quick_runs import SMALL, composed, copy_store, quick_command, quick_run

from relinearize.runs import recall as recalling
from relinearize.runs.recall import note_of, recall


def test_finished_run_is_found_without_torch(tmp_path, alone, typed):
    copy_store(alone[SMALL][1], tmp_path)
    arguments = quick_command(tmp_path, f"budget.fraction={SMALL}")[3:]
    status, shown, errors = typed(*arguments)
    assert status == 0, errors
    code = """
import sys
from relinearize.cli import main
sys.argv = ["relinearize", *sys.argv[1:]]
main()
large = {"torch", "pytorch_lightning", "torchvision", "torchattacks", "sklearn", "scipy", "pandas", "matplotlib"}
found = (large | {"wandb"}) & set(sys.modules)
assert not found, found
"""
    environment = {**os.environ, "COLUMNS": "200"}
    again = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout == shown


def test_only_the_same_config_is_recalled(tmp_path, alone, monkeypatch):
    copy_store(alone[SMALL][1], tmp_path)
    config = composed(tmp_path, f"budget.fraction={SMALL}")
    assert recall(config) is None
    record, folder = quick_run(tmp_path, f"budget.fraction={SMALL}")
    assert recall(config) == (record, folder)
    for other in ("seed=1", "method.search.epochs=2", "dataset.subset=199", f"store={tmp_path / 'other'}"):
        assert recall(composed(tmp_path, f"budget.fraction={SMALL}", other)) is None, other
    with monkeypatch.context() as patch:
        patch.setattr(recalling, "RESULTS_VERSION", recalling.RESULTS_VERSION + 1)
        assert recall(config) is None
    (folder / "artifact.json").unlink()
    assert recall(config) is None, "an incomplete folder is no run"


@pytest.mark.parametrize(
    "override",
    [
        "teacher.weights=file.pt", "+backbone.weights=file.pt", "allocation=cost", "logger=wandb",
        "backbone._target_=mine.network", "+method.teacher.file=mine.pt", "+sensitivity.search.file=mask.safetensors",
    ],
)  # fmt: skip
def test_what_more_than_the_config_decides_is_not_noted(override):
    assert note_of(composed(Path("unused"), override)) is None
    assert note_of(composed(Path("unused"))) is not None


def test_what_a_config_leaves_out_is_as_usual():
    config = composed(Path("unused"))
    config.allocation = config.sensitivity = None
    assert note_of(config) is not None
    del config.trainer.accelerator, config.repair
    note_of(config)  # a GPU of this machine may decide


def test_machine_with_a_gpu_decides_itself_unless_told(tmp_path, monkeypatch):
    (tmp_path / "gpu").touch()
    monkeypatch.setattr(recalling, "GPU_DEVICES", (str(tmp_path / "gpu"),))
    assert note_of(composed(tmp_path, "trainer.accelerator=auto")) is None
    assert note_of(composed(tmp_path, "trainer.accelerator=cpu")) is not None
