"""What a finished run says about itself: its record, made from the artifacts of its stages."""

import math
from datetime import UTC, datetime
from typing import Any

import torch

from relinearize.machine import device_name, git_commit, versions
from relinearize.records.run import SCHEMA_VERSION, Record
from relinearize.records.store import MASK
from relinearize.relu.mask import Mask
from relinearize.runs.plan import Plan, plain
from relinearize.runs.predicted_cost import cost_values


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


def hardware(plan: Plan) -> dict[str, Any]:
    return {
        "accelerator": plan.accelerator,
        "name": device_name(plan.accelerator),
        "threads": torch.get_num_threads(),
        "precision": plan.precision,
        "convolutions": plan.training.convolutions,
    }
