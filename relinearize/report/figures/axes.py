"""What a Pareto figure's horizontal axis can be: the ReLUs, or what private inference is predicted to cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.tables.cost import preset_text
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import compact_count

WIDE_RANGE = 4.0  # from this quotient of its ends on, an axis of costs is logarithmic


@dataclass(frozen=True)
class Axis:
    """`column`: of a panel's points and levels, NaN where not known."""

    column: str
    label: str
    text: Callable[[float], str] = "{:g}".format  # of a tick
    note: str = ""  # what stands below the label
    always_logarithmic: bool = False
    published: bool = False  # whether the papers' points have a place on it

    def logarithmic(self, low: float, high: float) -> bool:
        return self.always_logarithmic or wide(low, high)


def wide(low: float, high: float) -> bool:
    """Whether an axis from `low` to `high` reads better with a logarithmic scale."""
    return low > 0 and high / low >= WIDE_RANGE


RELUS = Axis("relus", "ReLUs kept per image", compact_count, always_logarithmic=True, published=True)


def cost_axes(preset: Preset) -> dict[str, Axis]:
    """latency and, where the protocol sends anything, bytes."""
    label, note = "predicted online {}", preset_text(preset)
    axes = {"latency": Axis(f"{preset.name}_s", label.format("latency, seconds per image"), note=note)}
    if preset.network is not None:
        axes["bytes"] = Axis(f"{preset.name}_mb", label.format("traffic, MB per image"), note=note)
    return axes


def covered(axis: Axis, panels: Sequence[Panel]) -> list[Panel]:
    """Those of `panels` that have anything to draw on `axis`."""
    return [panel for panel in panels if panel.points[axis.column].notna().any()]
