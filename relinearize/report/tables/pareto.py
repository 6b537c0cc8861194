"""The Pareto table: runs that differ by nothing but their seed become one point with mean, spread and n.

panel   one dataset (name, title, image size): one picture
series  one method on one backbone, width, convention and recipe within a panel: one curve
point   one asked budget of a series: mean and sample standard deviation over seeds
"""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from relinearize.private_inference.cost.presets import Preset
from relinearize.records.run import Record
from relinearize.report.papers.published import PublishedPoint, published_for
from relinearize.report.tables.cost import cost_columns
from relinearize.report.tables.recipe import recipe_of


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for one value) of n values."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass
class Point:
    """The runs of one series at one asked budget. `relus`: mean number of ReLUs met."""

    asked: int
    records: list[Record]

    @property
    def relus(self) -> int:
        return round(statistics.fmean(record.budget.met for record in self.records))

    def accuracy(self, kind: str = "test") -> Spread | None:
        """`kind`: test, test_last, holdout or teacher_test (the all-ReLU network)."""
        return Spread.of(getattr(record.accuracy, kind) for record in self.records)


@dataclass
class Series:
    """One curve. `variant` names what tells it from a series of the same method and network ("" if alone)."""

    method: str
    backbone: str
    width: int | None
    convention: str
    replacement: str
    total: int
    recipe: dict[str, Any]
    variant: str = ""
    points: list[Point] = field(default_factory=list)

    @property
    def network(self) -> str:
        width = "" if self.width is None else f" (width {self.width})"
        return f"{self.backbone}{width}, {self.convention} convention"

    @property
    def records(self) -> list[Record]:
        return [record for point in self.points for record in point.records]


@dataclass(frozen=True)
class AllReLULevel:
    """The all-ReLU networks of one kind: `total` ReLUs, accuracy over distinct teachers; `record`: a run of one."""

    network: str
    total: int
    accuracy: Spread
    record: Record


@dataclass
class Panel:
    """One dataset and its curves."""

    dataset: str
    title: str
    image_size: int
    series: list[Series]
    published: list[PublishedPoint] = field(default_factory=list)  # the papers' points on the same images

    def all_relu_levels(self) -> list[AllReLULevel]:
        """One level per network and teacher recipe, each teacher counted once however many runs share it."""
        teachers: dict[tuple, dict[str, float | None]] = {}
        examples: dict[tuple, Record] = {}
        for series in self.series:
            recipe = repr(sorted(item for item in series.recipe.items() if "teacher" in item[0]))
            for record in series.records:
                stage = record.stages.get("teacher")
                name = stage.key if stage else f"seed {record.seed}"
                kind = (series.network, series.total, recipe)
                teachers.setdefault(kind, {})[name] = record.accuracy.teacher_test
                examples.setdefault(kind, record)
        spreads = {kind: Spread.of(accuracies.values()) for kind, accuracies in teachers.items()}
        return [
            AllReLULevel(kind[0], kind[1], spread, examples[kind])
            for kind, spread in spreads.items()
            if spread is not None
        ]

    def label(self, series: Series) -> str:
        """A series' name within this panel: the method, and the network only where several are drawn."""
        parts = [series.method + (f" [{series.variant}]" if series.variant else "")]
        if len({other.network for other in self.series}) > 1:
            parts.append(series.network)
        return ", ".join(parts)


def build_panels(records: Sequence[Record], published: bool = True) -> list[Panel]:
    """Sort records into panels, series and points, deterministically and whatever their order.

    `published`: with the papers' points on the same images.
    """
    panels: dict[tuple, dict[str, Series]] = {}
    for record in sorted(records, key=_record_order):
        dataset = record.dataset
        series_of = panels.setdefault((dataset.name, dataset.title, dataset.image_size), {})
        recipe = recipe_of(record)
        identity = (record.method.name, record.backbone.name, record.backbone.width, record.backbone.convention)
        series = series_of.setdefault(
            repr((identity, sorted(recipe.items()))),
            Series(*identity, record.replacement, record.budget.total, recipe),
        )
        # Records come sorted by budget, so runs of one point follow each other.
        if not series.points or series.points[-1].asked != record.budget.asked:
            series.points.append(Point(record.budget.asked, []))
        series.points[-1].records.append(record)
    built = [Panel(*key, list(series.values())) for key, series in panels.items()]
    for panel in built:
        _name_variants(panel.series)
        panel.published = published_for(panel.dataset, panel.image_size) if published else []
    return built


def _record_order(record: Record) -> tuple:
    backbone = record.backbone
    names = (record.dataset.name, record.dataset.title, record.dataset.image_size)
    network = (backbone.name, backbone.width or 0, backbone.convention)
    method = (record.method.name == "random", record.method.name)  # the yardstick comes last
    return (*names, *method, *network, -record.budget.asked, record.seed, record.key)


def _name_variants(series: list[Series]) -> None:
    alike: dict[tuple, list[Series]] = {}
    for one in series:
        alike.setdefault((one.method, one.network), []).append(one)
    for group in alike.values():
        if len(group) == 1:
            continue
        keys = sorted({key for one in group for key in one.recipe})
        differing = [key for key in keys if len({repr(one.recipe.get(key)) for one in group}) > 1]
        # Two are enough for a name: the classes of the stages, then their settings, then what follows from these.
        shown = sorted(differing, key=lambda key: (key != "stages", "_target_" in key, "." not in key, key))[:2]
        for one in group:
            one.variant = ", ".join(f"{key.removeprefix('method.')}={one.recipe.get(key)}" for key in shown)


def pareto_rows(panels: Iterable[Panel], preset: Preset | None = None) -> list[dict[str, Any]]:
    """One row per point; accuracies in percent, `drop` = all-ReLU minus test accuracy of the point's runs.

    Costs of private inference are predicted (`cost_columns`); preset: one more to have columns.
    """
    rows = []
    for panel in panels:
        for series in panel.series:
            for point in sorted(series.points, key=lambda point: point.relus):
                test, last, holdout = (point.accuracy(kind) for kind in ("test", "test_last", "holdout"))
                teacher = point.accuracy("teacher_test")
                rows.append(
                    {
                        "dataset": panel.dataset,
                        "title": panel.title,
                        "backbone": series.backbone,
                        "width": series.width,
                        "convention": series.convention,
                        "method": series.method,
                        "variant": series.variant,
                        "replacement": series.replacement,
                        "relus_asked": point.asked,
                        "relus": point.relus,
                        "relus_total": series.total,
                        "relus_percent": _rounded(100 * point.relus / series.total if series.total else None),
                        "accuracy_mean": _rounded(test and test.mean),
                        "accuracy_std": _rounded(test and test.std),
                        "n": test.n if test else 0,
                        "accuracy_last_mean": _rounded(last and last.mean),
                        "accuracy_last_std": _rounded(last and last.std),
                        "holdout_mean": _rounded(holdout and holdout.mean),
                        "all_relu_mean": _rounded(teacher and teacher.mean),
                        "drop": _rounded(teacher.mean - test.mean if teacher and test else None),
                        **cost_columns(point.records, preset),
                        "seeds": " ".join(str(record.seed) for record in point.records),
                        "keys": " ".join(record.key for record in point.records),
                    }
                )
    return rows


def pareto_csv(panels: Iterable[Panel], preset: Preset | None = None) -> str:
    """The rows as CSV text; unknown values are empty."""
    rows = pareto_rows(panels, preset)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
