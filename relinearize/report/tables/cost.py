"""What private inference with a run's network costs, predicted from its record alone."""

import statistics
from collections.abc import Sequence
from dataclasses import fields

from relinearize.private_inference.cost.backbones import backbone_work
from relinearize.private_inference.cost.choice import recorded_presets
from relinearize.private_inference.cost.prediction import Prediction, predict
from relinearize.private_inference.cost.presets import Preset
from relinearize.private_inference.cost.workload import LinearWork, Workload, mask_workload
from relinearize.records.run import Record


def record_workload(record: Record, all_relus: bool = False) -> Workload:
    """The counts of a run's network, or of the same with all its ReLUs.

    The linear part of the project's own backbones is counted anew. Of others the record says it, unless it is older
    than costs in records or than today's counts.
    """
    sites = mask_workload((site.total if all_relus else site.kept, site.total) for site in record.sites)
    return Workload(sites.relus, sites.live_sites, sites.gathered, _linear_work(record))


def _linear_work(record: Record) -> LinearWork | None:
    if record.own_backbone:
        dataset, backbone = record.dataset, record.backbone
        return backbone_work(
            backbone.name,
            width=backbone.width,
            classes=dataset.classes,
            image_size=dataset.image_size,
            channels=dataset.channels,
        )
    counts = record.cost and record.cost.linear
    return LinearWork(**counts) if counts and set(counts) == {entry.name for entry in fields(LinearWork)} else None


def predicted(record: Record, preset: Preset, all_relus: bool = False) -> Prediction | None:
    """What one image costs under `preset` by its present constants; None where the linear part counts and is not known.

    all_relus: of the network with all its ReLUs.
    """
    found = predict(preset, record_workload(record, all_relus))
    return found if found.whole else None


def cost_columns(records: Sequence[Record], chosen: Preset | None = None) -> dict[str, float | None]:
    """Means over `records`: sites that keep any ReLU; per preset seconds online and, but for delphi_compute, megabytes.

    chosen: a preset to add to those that every report has. None where the linear part counts and is not known.
    """
    presets = {preset.name: preset for preset in (*recorded_presets(), *([chosen] if chosen else []))}
    columns: dict[str, float | None] = {
        "live_sites": _mean([record_workload(record).live_sites for record in records]),
    }
    for name, preset in presets.items():
        found = [predicted(record, preset) for record in records]
        columns[f"{name}_s"] = _mean([one and one.online.seconds for one in found])
        if preset.network is not None:
            columns[f"{name}_mb"] = _mean([one and one.online.bytes / 1e6 for one in found])
    return columns


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else round(statistics.fmean(values), 4)
