"""The predicted latency of each point in its parts, from records alone."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.figures.style import short_count
from relinearize.report.tables.cost import predicted
from relinearize.report.tables.pareto import Panel

# Part of a latency -> words for people.
PARTS = {
    "computation": "computation of both parties",
    "wire": "bytes / rate",
    "rounds": "messages x RTT/2",
}


@dataclass(frozen=True)
class LatencySplit:
    """Seconds, means over the runs of a point. `title`: the dataset; `label`: the method and its ReLUs."""

    title: str
    label: str
    computation: float
    wire: float
    rounds: float


def latency_splits(panels: Sequence[Panel], preset: Preset) -> list[LatencySplit]:
    """Of all points whose cost is known; none where the preset is computation alone, which has no parts."""
    if preset.network is None:
        return []
    splits = []
    for panel in panels:
        for series in panel.series:
            for point in sorted(series.points, key=lambda point: -point.relus):
                found = [predicted(record, preset) for record in point.records]
                if None in found:
                    continue
                parts = [
                    (one.online.loopback_seconds, one.online.bytes_seconds, one.online.rounds_seconds) for one in found
                ]
                means = [statistics.fmean(values) for values in zip(*parts, strict=True)]
                splits.append(LatencySplit(panel.title, f"{panel.label(series)}, {short_count(point.relus)}", *means))
    return splits
