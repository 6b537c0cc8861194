"""W&B online, and after `wandb sync`, at a server of this process: what stands there, and who made it from what."""

import subprocess
import sys
from pathlib import Path

import pytest
from quick_runs import quick_run
from wandb_files import keep_off
from wandb_server import WandbServer

pytest.importorskip("wandb")

SCRIPTS = Path(__file__).parents[2] / "scripts"
# Without a trained search: of the four W&B runs, the search's is then made of its result alone.
SHORT = ["method.teacher.epochs=2", "method.finetune.epochs=1", "budget.fraction=0.5", "dataset.subset=120"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    keep_off(monkeypatch, tmp_path / "wandb-own")
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield server
    import wandb

    wandb.teardown()
    server.shutdown()


def short_run(folder, *overrides):
    return quick_run(folder, *SHORT, "logger=wandb", *overrides, method="random")


def assert_whole(server, record):
    """The three stages are there with their rows, results and, where W&B was online, what they were made from."""
    keys = {stage: f"{stage}-{record.stages[stage].key[:12]}" for stage in ("teacher", "search", "finetune")}
    assert set(server.runs) == set(keys.values())
    for stage in ("teacher", "finetune"):
        history = record.stages[stage].history
        assert server.column(keys[stage], "val/accuracy") == [row["val/accuracy"] for row in history]
    teacher, search = "weights-teacher-resnet8-digits-s0", "randommask-resnet8-digits-s0-1152"
    search = {f"mask-{search}", f"weights-{search}"}
    assert server.made_by(keys["teacher"]) == {teacher} and server.made_by(keys["search"]) == search
    result = {f"mask-{record.name}", f"weights-{record.name}"}
    assert result < server.made_by(keys["finetune"])
    for name in {teacher, *search, *result}:
        assert f"artifact/{name}/{name.split('-')[0]}.safetensors" in server.uploads
    summary = server.runs[keys["finetune"]]["summary"]
    assert summary["test/accuracy"] == record.accuracy.test and "val/accuracy_best" in summary
    assert f"{keys['finetune']}/{summary['sites/table']['path']}" in server.uploads
    return keys, teacher, search


@pytest.mark.slow
def test_each_stage_uses_what_the_one_before_it_made(tmp_path, server):
    record, _ = short_run(tmp_path)
    keys, teacher, search = assert_whole(server, record)
    assert server.used_by(keys["teacher"]) == set()
    assert server.used_by(keys["search"]) == {teacher}
    assert server.used_by(keys["finetune"]) == {teacher, *search}
    staged = tmp_path.glob("wandb/artifacts/staging/*")
    assert sum(path.stat().st_size for path in staged) < 10_000, "weights are uploaded from where they lie"
    first = server.runs[keys["finetune"]]["upserts"][0]
    assert (first["displayName"], first["jobType"]) == (record.name, "finetune")

    # Another budget finds teacher and search made. What somebody deleted at W&B is uploaded again.
    deleted = next(number for number, each in server.artifacts.items() if each["name"] == teacher)
    server.artifacts[deleted]["aliases"].clear()
    server.uses.clear()
    again, _ = short_run(tmp_path, "method.finetune.learning_rate=0.02")
    assert again.stages["search"].reused
    second = f"finetune-{again.stages['finetune'].key[:12]}"
    assert server.used_by(second) == {teacher, *search} and len(server.runs) == 4
    assert not server.used_by(keys["teacher"]) | server.used_by(keys["search"]), "their W&B runs were left alone"


@pytest.mark.slow
def test_offline_runs_sync_whole(tmp_path, server):
    """Also a run that was made without W&B and is asked again: its curves come from its stages' history."""
    short_run(tmp_path / "out", "logger=none")
    record, _ = short_run(tmp_path / "out", "logger.mode=offline")
    folders = sorted(tmp_path.glob("out/wandb/offline-run-*"))
    assert len(folders) == 3 and not server.runs
    short_run(tmp_path / "out", "logger.mode=offline")
    assert sorted(tmp_path.glob("out/wandb/offline-run-*")) == folders, "once is enough"
    command = [sys.executable, "-m", "wandb", "sync", str(tmp_path / "out" / "wandb")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    keys, teacher, search = assert_whole(server, record)
    assert not server.uses, "W&B refuses it offline"
    done = subprocess.run(
        [sys.executable, SCRIPTS / "wandb_lineage.py", "me/relinearize"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == "4 inputs declared\n", done.stderr
    assert server.used_by(keys["search"]) == {teacher}
    assert server.used_by(keys["finetune"]) == {teacher, *search}
