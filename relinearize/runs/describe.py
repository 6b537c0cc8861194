"""What a finished run says about itself: its record, made from the artifacts of its stages."""

import logging
import math
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import torch
from omegaconf import DictConfig

from relinearize.data.source import Source
from relinearize.machine import device_name, git_commit, versions
from relinearize.private_inference.bundle.exporting import counted_bundle
from relinearize.private_inference.cost.backbones import backbone_work, recorded_name
from relinearize.private_inference.cost.presets import PhaseCost, predict, recorded_presets
from relinearize.private_inference.cost.workload import LinearWork, bundle_workload, mask_workload
from relinearize.records.run import OWN_BUILDER, SCHEMA_VERSION, Record
from relinearize.relu.mask import Mask
from relinearize.runs.build import STUDENT_SHAPE, all_relu_network
from relinearize.runs.plan import Plan
from relinearize.runs.request import Request

logger = logging.getLogger(__name__)


def make_record(plan: Plan, reused: dict[str, bool]) -> Record:
    """The record of a run whose stages are all in the store."""
    request, config, training = plan.request, plan.request.config, plan.request.training
    described = {name: artifact.describe() for name, artifact in plan.artifacts.items()}
    teacher, snapshot, tuned = (described[name] for name in ("teacher", "search", "finetune"))
    mask, _ = plan.results.mask(plan.chosen)
    sensitivities = plan.sensitivities()
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
            "name": request.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": {"name": request.method_name, **stage_classes(request)},
            "dataset": {
                "name": config.dataset.name,
                "title": config.dataset.title,
                "image_size": int(request.source.image_size),  # a NumPy integer perhaps, of one's own source
                "channels": int(request.source.channels),
                "classes": int(request.source.classes),
                **request.data.sizes,
                "fingerprint": request.fingerprint,
            },
            "backbone": {
                "name": recorded_name(config.backbone),
                "width": known_width(config),
                "convention": config.backbone.get("convention", "all"),
                "student": student_shape(config) if request.reshaped else None,
            },
            "seed": request.seed,
            "replacement": request.replacement_name,
            "unit": mask.unit,
            "zero_weights": tuned.get("zero_weights"),
            "budget": {
                "asked": request.budget,
                "met": mask.count,
                "total": request.total,
                "reached": snapshot["reached"],
            },
            "sites": [
                {
                    "name": site,
                    "shape": tuple(kept.shape),
                    "total": kept.numel(),
                    "kept": int(kept.sum()),
                    "sensitivity": sensitivities.get(site),
                }
                for site, kept in mask.items()
            ],
            "accuracy": {
                **tuned["accuracy"],
                "teacher_test": teacher["accuracy"]["test"],
                "teacher_predictions": teacher["accuracy"].get("predictions"),
            },
            "stages": stages,
            "config": request.plain_config,
            "versions": versions(),
            "git_commit": git_commit(),
            "hardware": {
                "accelerator": training.accelerator,
                "name": device_name(training.accelerator),
                "threads": torch.get_num_threads(),
                "precision": training.precision,
                "convolutions": training.convolutions,
            },
            "cost": cost_values(config, request.source, mask, request.replacement_name),
            "route": "clean" if len(request.stage_routes("finetune")) > 1 else None,
        }
    )


def epochs_begun(history: list[dict[str, float]]) -> int:
    """Epochs that a stage trained, a last one in part included.

    Rows of whole epochs carry their index; the search ends in a row with the epochs walked by then (4.25, say).
    """
    return math.ceil(max((row["epoch"] + ("seconds" in row) for row in history), default=0))


def stage_classes(request: Request) -> dict[str, str]:
    """Stage -> its class; "file" for a teacher that was read."""
    classes = {stage: request.class_name(stage) for stage in ("teacher", "search", "finetune")}
    return classes if request.teacher_file is None else classes | {"teacher": "file"}


def student_shape(config: DictConfig) -> dict[str, Any]:
    """Width and stride of the network that is linearized, where it may have others than the teacher."""
    width, stride = (config.backbone.get(name, usual) for name, usual in STUDENT_SHAPE.items())
    return {"width": known_width(config) if width is None else width, "stride": stride}


def known_width(config: DictConfig) -> int | None:
    """None of a network that has none, or means something else by it than a number of channels."""
    width = config.backbone.get("width")
    return width if type(width) is int else None


# ---- private inference: the counts of the network, and what each preset predicts from them -------------------------


def cost_values(config: DictConfig, source: Source, mask: Mask, replacement: str) -> dict[str, Any]:
    """The values of a CostRecord for `config.backbone` on images like those of `source`, under `mask`.

    replacement: what stands at removed positions.
    """
    sites = [(int(kept.sum()), kept.numel()) for kept in mask.values()]
    workload = replace(mask_workload(sites, replacement), linear=network_work(config, source))
    predictions = [predict(preset, workload) for preset in recorded_presets()]
    counts = asdict(workload)
    del counts["inference"]
    return {
        **counts,
        "predicted": {
            one.preset.name: {
                "online": _phase(one.online, one.preset.network is not None),
                "offline": one.offline and _phase(one.offline, one.preset.network is not None),
            }
            for one in predictions
            if one.complete
        },
    }


def network_work(config: DictConfig, source: Source) -> LinearWork | None:
    """The linear part of the network of `config`: from its name, or counted in it. None where it cannot be traced."""
    backbone, shape = config.backbone, student_shape(config)
    if backbone["_target_"] == OWN_BUILDER and shape["stride"] == 1:
        return backbone_work(recorded_name(backbone), shape["width"], source)
    input_size = (source.channels, source.image_size, source.image_size)
    try:
        return bundle_workload(counted_bundle(all_relu_network(config, source, student=True), input_size)).linear
    except Exception as error:  # a user's network, after its training: whatever is wrong must not cost the run
        logger.warning("the record has no cost of the linear layers: %s", str(error) or type(error).__name__)
        return None


def _phase(cost: PhaseCost, on_network: bool) -> dict[str, Any]:
    return {
        "seconds": round(cost.seconds, 6),
        "bytes": round(cost.bytes) if on_network else None,
        "messages": round(cost.messages) if on_network else None,
    }
