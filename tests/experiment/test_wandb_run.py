"""W&B offline: what a run leaves there, read back from the files that `wandb sync` would upload."""

import json
import struct
import time
from collections import defaultdict
from pathlib import Path

import pytest
from quick_runs import SMALL, lasting, quick_run

from relinearize.errors import UserError
from relinearize.experiment.records import Record

wandb = pytest.importorskip("wandb")
from wandb.proto import wandb_internal_pb2

BLOCK = 32768


def file_records(path):
    """The protobuf records of a run file: a LevelDB log (7-byte headers, blocks of 32 KiB) of serialized records."""
    data, position, parts = Path(path).read_bytes(), 7, b""
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:  # no header fits: padding
            position += BLOCK - position % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        position += 7
        parts += data[position : position + size]
        position += size
        if kind in (1, 4):  # whole, or the last of several
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def values(items):
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read_run(path):
    found = {"config": {}, "summary": {}, "history": [], "artifacts": [], "ended": []}
    for record in file_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            found["config"] |= values(record.run.config.update)
        elif kind == "config":
            found["config"] |= values(record.config.update)
        elif kind == "history":
            found["history"].append(values(record.history.item))
        elif kind == "summary":
            found["summary"] |= values(record.summary.update)
        elif kind == "artifact":
            found["artifacts"].append((record.artifact.type, record.artifact.name))
        elif kind == "exit":
            found["ended"].append(record.exit.exit_code)
    return found


@pytest.fixture
def offline(tmp_path, monkeypatch):
    for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb-own"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield ["logger=wandb", "logger.mode=offline", "logger.tags=[mine]", "sweep=a-sweep"]
    assert wandb.run is None, "a W&B run was left open"


def runs_below(folder):
    """job type -> all files' contents of it, oldest first."""
    runs = defaultdict(list)
    for path in sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime):
        content = read_run(path)
        deadline = time.monotonic() + 60  # W&B's own process writes the file; on a busy machine after finish() returned
        while "run" not in content and time.monotonic() < deadline:
            time.sleep(0.2)
            content = read_run(path)
        runs[content["run"].job_type].append(content)
    return runs


def test_offline_run_holds_everything_that_a_comparison_needs(tmp_path, alone, offline):
    record, _ = quick_run(tmp_path, f"budget.fraction={SMALL}", *offline)
    ours, theirs = lasting(record), lasting(alone[SMALL][0])
    assert all(ours[key] == theirs[key] for key in ours if key != "config"), "the logger must not change the run"

    runs = runs_below(tmp_path)
    assert set(runs) == {"teacher", "search", "finetune"}
    for stage, contents in runs.items():
        for content in contents:
            run = content["run"]
            assert run.run_group == "a-sweep" and run.project == "relinearize"
            assert {"digits", "resnet8", "mine"} <= set(run.tags)
            assert run.run_id == f"{stage}-{record.stages[stage].key[:12]}"
            assert content["config"]["method"]["search"]["lasso"] == 3e-4, "the config stays nested"
            assert content["ended"] == [0]
    assert "snl" not in runs["teacher"][0]["run"].tags
    assert "622-relus" in runs["finetune"][0]["run"].tags

    rows = [row for content in runs["search"] for row in content["history"]]
    kept = [row for row in record.stages["search"].history if "seconds" in row]
    assert [(row["epoch"], row["relu/count"], row["lasso"]) for row in rows] == [
        (row["epoch"], row["relu/count"], row["lasso"]) for row in kept
    ]
    assert [row["val/accuracy"] for row in rows] == [row["val/accuracy"] for row in kept]

    summary = {key: value for content in runs["finetune"] for key, value in content["summary"].items()}
    assert summary["relu/count"] == 622 and summary["test/accuracy"] == record.accuracy.test
    assert summary["record/key"] == record.key
    artifacts = [artifact for content in runs["finetune"] for artifact in content["artifacts"]]
    assert ("mask", f"mask-{record.name}") in artifacts and ("weights", f"weights-{record.name}") in artifacts


def test_stages_and_submodels_of_senetpp_are_there_too(tmp_path, offline):
    record, folder = quick_run(tmp_path, "budget.fraction=0.2", *offline, method="senetpp")
    runs = runs_below(tmp_path)
    assert set(runs) == {"teacher", "sensitivity", "search", "finetune"}
    assert "461-relus" in runs["search"][0]["run"].tags and "senetpp" not in runs["sensitivity"][0]["run"].tags
    assert [row["mask/distance"] for row in runs["search"][0]["history"]] == pytest.approx(
        [row["mask/distance"] for row in record.stages["search"].history]
    )
    summary = {key: value for content in runs["finetune"] for key, value in content["summary"].items()}
    narrow = Record.read(folder / "width-0.5" / "record.json")
    assert summary["relu/count"] == 461 and summary["width-0.5/relu/count"] == narrow.budget.met
    assert summary["width-0.5/test/accuracy"] == narrow.accuracy.test


def test_failing_run_is_closed_as_failed(tmp_path, offline):
    with pytest.raises(UserError, match="stage teacher"):
        quick_run(tmp_path, "method.teacher.learning_rate=1e20", *offline)
    runs = runs_below(tmp_path)
    assert set(runs) == {"teacher"} and runs["teacher"][0]["ended"] == [1]
