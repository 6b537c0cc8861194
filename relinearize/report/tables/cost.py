"""What private inference with a run's network costs, predicted from its record alone."""

from dataclasses import fields, replace

from relinearize.private_inference.cost.backbones import backbone_work
from relinearize.private_inference.cost.presets import Preset, predict, recorded_presets
from relinearize.private_inference.cost.workload import LinearWork, Workload, mask_workload
from relinearize.records.run import Record, StudentRecord


def record_workload(record: Record, all_relus: bool = False) -> Workload:
    """The counts of a run's network, or of the same with all its ReLUs.

    The linear part of the project's own backbones is counted anew. Of others the record states it, unless it is older
    than costs in records or than today's counts.
    """
    sites = [(site.total if all_relus else site.kept, site.total) for site in record.sites]
    return replace(mask_workload(sites, record.replacement), linear=_linear_work(record))


def _linear_work(record: Record) -> LinearWork | None:
    backbone = record.backbone
    student = backbone.student or StudentRecord(width=backbone.width, stride=1)
    if record.own_backbone and student.stride == 1:
        return backbone_work(backbone.name, student.width, record.dataset)
    counts = dict((record.cost and record.cost.linear) or {})
    counts.setdefault("products", counts.get("layers"))  # an older record took grouped convolutions as one
    counts.setdefault("means", 1)  # and one mean for granted
    return LinearWork(**counts) if set(counts) == {entry.name for entry in fields(LinearWork)} else None


def predicted_costs(record: Record, preset: Preset | None = None, all_relus: bool = False) -> dict[str, float | None]:
    """Columns of the table of runs: `live_sites`, and what one image costs online under each preset that is recorded.

    NAME_s: seconds, the sum of NAME_computation, NAME_wire and NAME_rounds; NAME_mb (10^6 bytes of both directions) and
    NAME_messages: not of computation alone. All None where the linear part counts and is not known.
    preset: one more. all_relus: of the network with all its ReLUs.
    """
    workload = record_workload(record, all_relus)
    costs: dict[str, float | None] = {"live_sites": workload.live_sites}
    for one in (*recorded_presets(), *([preset] if preset else [])):
        found = predict(one, workload)
        online = found.online
        values = {
            "s": online.seconds,
            "computation": online.loopback_seconds,
            "wire": online.bytes_seconds,
            "rounds": online.rounds_seconds,
        }
        if one.network is not None:
            values |= {"mb": online.bytes / 1e6, "messages": online.messages}
        costs |= {f"{one.name}_{name}": value if found.complete else None for name, value in values.items()}
    return costs


def preset_text(preset: Preset) -> str:
    """For people: protocol and network of a preset."""
    network = "" if preset.network is None else f"; {preset.network.text}"
    return f"{preset.protocol.title}{network}"
