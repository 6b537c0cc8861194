"""What private inference with a run's network costs, predicted from its record alone."""

import statistics
from collections.abc import Sequence

from relinearize.cost.backbones import backbone_work
from relinearize.cost.prediction import predict
from relinearize.cost.presets import find_presets
from relinearize.cost.workload import Workload, mask_workload
from relinearize.experiment.records import Record

# The columns of a report: the axis of the papers' tables, and the wide-area network, where rounds and bytes count.
PRESETS = ("delphi_compute", "delphi_wan", "cheetah_wan", "semi2k_wan")


def record_workload(record: Record) -> Workload:
    """The counts of a run's network; its linear part is known for the project's own backbones."""
    workload = mask_workload((site.kept, site.total) for site in record.sites)
    dataset, backbone = record.dataset, record.backbone
    work = backbone_work(
        backbone.name,
        width=backbone.width,
        classes=dataset.classes,
        image_size=dataset.image_size,
        channels=dataset.channels,
    )
    return Workload(workload.relus, workload.live_sites, workload.gathered, work)


def cost_columns(records: Sequence[Record]) -> dict[str, float | None]:
    """Means over `records`: sites that keep any ReLU; per preset seconds online and, but for delphi_compute, megabytes.

    None where the linear part counts and is not known.
    """
    workloads = [record_workload(record) for record in records]
    columns: dict[str, float | None] = {"live_sites": _mean([workload.live_sites for workload in workloads])}
    for name in PRESETS:
        (preset,) = find_presets(name, None)
        found = [predict(preset, workload) for workload in workloads]
        whole = all(prediction.whole for prediction in found)
        columns[f"{name}_s"] = _mean([prediction.online.seconds for prediction in found]) if whole else None
        if preset.network is not None:
            columns[f"{name}_mb"] = _mean([prediction.online.bytes / 1e6 for prediction in found]) if whole else None
    return columns


def _mean(values: Sequence[float]) -> float:
    return round(statistics.fmean(values), 4)
