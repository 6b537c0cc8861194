"""What W&B's runs leave in a folder, read back from the files that `wandb sync` would upload."""

import json
import struct
import time
from collections import defaultdict
from pathlib import Path

import wandb
from wandb.proto import wandb_internal_pb2

BLOCK = 32768


def keep_off(monkeypatch, folder):
    """No file outside of `folder`, no word on the terminal, no account, no agent."""
    for name in ("CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(folder))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("DATA_DIR", "MODE", "PROJECT", "ENTITY", "API_KEY", "SWEEP_ID", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody
    wandb.teardown()  # it reads the environment once for all runs of a process


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
    """One W&B folder: what was sent to W&B, by kind."""
    found = {"config": {}, "summary": {}, "history": [], "artifacts": {}, "metrics": {}, "ended": [], "path": path}
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
            found["artifacts"][record.artifact.name] = record.artifact
        elif kind == "metric":
            found["metrics"][record.metric.glob_name or record.metric.name] = record.metric
        elif kind == "exit":
            found["ended"].append(record.exit.exit_code)
    return found


def run_files(folder):
    """The W&B files below `folder`, oldest first."""
    paths = (path for path in folder.rglob("run-*.wandb") if not path.parent.is_symlink())
    return sorted(paths, key=lambda path: path.stat().st_mtime)


def runs_below(folder):
    """job type -> all files' contents of it, oldest first."""
    runs = defaultdict(list)
    for path in run_files(folder):
        content = read_run(path)
        deadline = time.monotonic() + 60  # W&B's own process writes the file; on a busy machine after finish() returned
        while not content["ended"] and time.monotonic() < deadline:
            time.sleep(0.2)
            content = read_run(path)
        runs[content["run"].job_type].append(content)
    return runs


def epochs_of(content):
    """The rows of a training among what was logged."""
    return [row for row in content["history"] if "seconds" in row]


def local_paths(content):
    """Every file on this machine that a sync of this W&B folder would read: of artifacts, and media."""
    for artifact in content["artifacts"].values():
        for entry in artifact.manifest.contents:
            yield Path(entry.local_path)
    media = content["path"].parent / "files"
    for row in content["history"]:
        for key, value in row.items():
            if key.endswith(".path"):
                yield media / value
            elif key.endswith(".filenames"):
                yield from (media / name for name in value)
