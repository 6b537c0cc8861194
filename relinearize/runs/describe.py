"""What a finished run says about itself: its record, made from the artifacts of its stages."""

import contextlib
import math
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from relinearize.records.run import SCHEMA_VERSION, Record
from relinearize.records.store import MASK
from relinearize.relu.mask import Mask
from relinearize.runs.plan import Plan, plain
from relinearize.runs.predicted_cost import cost_values
from relinearize.training.fit import convolutions


def make_record(plan: Plan, reused: dict[str, bool]) -> Record:
    """The record of a run whose stages are all in the store."""
    config = plan.config
    described = {name: artifact.describe() for name, artifact in plan.artifacts.items()}
    teacher, snapshot, tuned = (described[name] for name in ("teacher", "search", "finetune"))
    mask, _ = Mask.from_file(plan.chosen.path / MASK)
    shapes = plan.shapes
    sensitivities = plan.sensitivity_source.values() if plan.allocated else {}
    stages = {}
    for name, content in described.items():
        stages[name] = {
            "key": content["key"],
            "seconds": float(content["seconds"]),
            "epochs": epochs_begun(content["history"]),
            "reused": reused[name],
            "history": content["history"],
        }
    return Record.model_validate(
        {
            "schema_version": SCHEMA_VERSION,
            "key": plan.run.key,
            "name": plan.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": {"name": plan.method_name, **plan.stage_classes()},
            "dataset": {
                "name": config.dataset.name,
                "title": config.dataset.title,
                "image_size": plan.source.image_size,
                "channels": plan.source.channels,
                "classes": plan.source.classes,
                **plan.data.sizes,
                "fingerprint": plan.fingerprint,
            },
            "backbone": {
                "name": config.backbone.name,
                "width": config.backbone.get("width"),
                "convention": config.backbone.get("convention", "all"),
            },
            "seed": plan.seed,
            "replacement": "identity",
            "budget": {
                "asked": plan.budget,
                "met": mask.count,
                "total": plan.total,
                "reached": snapshot["reached"],
            },
            "sites": [
                {
                    "name": site,
                    "shape": tuple(shapes[site]),
                    "total": kept.numel(),
                    "kept": int(kept.sum()),
                    "sensitivity": sensitivities.get(site),
                }
                for site, kept in mask.items()
            ],
            "accuracy": {**tuned["accuracy"], "teacher_test": teacher["accuracy"]["test"]},
            "stages": stages,
            "config": plain(config),
            "versions": versions(),
            "git_commit": git_commit(),
            "hardware": hardware(plan),
            "cost": cost_values(config, plan.source, [(int(kept.sum()), kept.numel()) for kept in mask.values()]),
            "route": "clean" if len(plan.stage_routes("finetune")) > 1 else None,
        }
    )


def epochs_begun(history: list[dict[str, float]]) -> int:
    """Epochs that a stage trained, a last one in part included.

    Rows of whole epochs carry their index; the search ends in a row with the epochs walked by then (4.25, say).
    """
    return math.ceil(max((row["epoch"] + ("seconds" in row) for row in history), default=0))


def versions() -> dict[str, str]:
    packages = ("relinearize", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit() -> str | None:
    """The commit of the source checkout this runs from; None in an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def hardware(plan: Plan) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if plan.accelerator == "cuda" else processor_name()
    return {
        "accelerator": plan.accelerator,
        "name": name,
        "threads": torch.get_num_threads(),
        "precision": plan.precision,
        "convolutions": convolutions(plan.config.trainer),
    }


def processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
