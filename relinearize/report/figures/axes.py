"""What a Pareto figure's horizontal axis can be: the ReLUs, or what private inference is predicted to cost."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relinearize.private_inference.cost.prediction import PhaseCost
from relinearize.private_inference.cost.presets import Preset
from relinearize.records.run import Record
from relinearize.report.figures.style import short_count
from relinearize.report.tables.cost import predicted
from relinearize.report.tables.pareto import AllReLULevel, Panel, Point

WIDE_RANGE = 4.0  # from this quotient of its ends on, an axis of costs is logarithmic


@dataclass(frozen=True)
class Axis:
    """`of`: (record, whether of the same network with all its ReLUs) -> value, None where not known."""

    label: str
    of: Callable[[Record, bool], float | None]
    text: Callable[[float], str]  # of a tick
    note: str = ""  # what stands below the label
    always_logarithmic: bool = False
    published: bool = False  # whether the papers' points have a place on it

    def at(self, point: Point) -> float | None:
        """The mean over the runs of `point`; None where one is not known."""
        values = [self.of(record, False) for record in point.records]
        return None if None in values else statistics.fmean(values)

    def of_level(self, level: AllReLULevel) -> float | None:
        return self.of(level.record, True)

    def logarithmic(self, low: float, high: float) -> bool:
        return self.always_logarithmic or (low > 0 and high / low >= WIDE_RANGE)

    def covers(self, panel: Panel) -> bool:
        """Whether any point of `panel` has a place."""
        return any(self.at(point) is not None for series in panel.series for point in series.points)


RELUS = Axis(
    label="ReLUs kept per image",
    of=lambda record, all_relus: record.budget.total if all_relus else record.budget.met,
    text=short_count,
    always_logarithmic=True,
    published=True,
)


def cost_axes(preset: Preset) -> dict[str, Axis]:
    """latency and, where the protocol sends anything, bytes."""
    axes = {"latency": _cost_axis("latency, seconds per image", preset, lambda online: online.seconds)}
    if preset.network is not None:
        axes["bytes"] = _cost_axis("traffic, MB per image", preset, lambda online: online.bytes / 1e6)
    return axes


def _cost_axis(label: str, preset: Preset, value: Callable[[PhaseCost], float]) -> Axis:
    def of(record: Record, all_relus: bool) -> float | None:
        found = predicted(record, preset, all_relus)
        return found and value(found.online)

    return Axis(f"predicted online {label}", of, lambda tick: f"{tick:g}", preset_text(preset))


def preset_text(preset: Preset) -> str:
    """For people: protocol and network of a preset."""
    network = "" if preset.network is None else f"; {preset.network.text}"
    return f"{preset.protocol.title}{network}"


def covered(axis: Axis, panels: Sequence[Panel]) -> list[Panel]:
    """Those of `panels` that have anything to draw on `axis`."""
    return [panel for panel in panels if axis.covers(panel)]
