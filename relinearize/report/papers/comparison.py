"""`relinearize report --against-paper`: each run's accuracy beside the published one, as Markdown and CSV.

Runs without a counterpart are listed with the reason.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relinearize.records.run import Record
from relinearize.report.papers.counterpart import counterpart
from relinearize.report.papers.differences import differences
from relinearize.report.papers.published import PublishedPoint
from relinearize.report.tables.text import csv_text, markdown, markdown_table


@dataclass(frozen=True)
class Comparison:
    """A run and its published point; without one (None) `remarks` is the reason, else what differs."""

    record: Record
    point: PublishedPoint | None
    remarks: tuple[str, ...]

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in points of test accuracy."""
        ours = self.record.accuracy.test
        return None if self.point is None or ours is None else ours - self.point.accuracy


def compare(records: Iterable[Record]) -> list[Comparison]:
    """One comparison per run: those with a counterpart first, by dataset, method, network and budget."""
    compared = []
    for record in records:
        point, reason = counterpart(record)
        compared.append(Comparison(record, point, (reason,) if point is None else tuple(differences(record, point))))
    return sorted(compared, key=_order)


def _order(one: Comparison) -> tuple:
    record = one.record
    names = (record.dataset.name, record.dataset.title, record.method.name, record.backbone.name)
    return (one.point is None, *names, -record.budget.met, record.seed, record.name, record.key)


def cells(one: Comparison) -> list[str]:
    """What a line of a table says of a run with a counterpart; `TITLES` are the columns' names."""
    record, point = one.record, one.point
    ours = "-" if record.accuracy.test is None else f"{record.accuracy.test:.2f}"
    return [
        record.name,
        record.dataset.title,
        f"{record.budget.met:,}",
        ours,
        f"{point.relus:,}",
        f"{point.accuracy:.2f}",
        "-" if one.difference is None else f"{one.difference:+.2f}",
        "; ".join(one.remarks) or "nothing known",
    ]


TITLES = ("run", "images", "ReLUs", "ours", "paper's ReLUs", "paper", "difference", "what differs")
NUMBERS = TITLES[2:7]


def against_paper_markdown(comparisons: Sequence[Comparison]) -> str:
    """Both lists and the sources of the published numbers."""
    matched = [one for one in comparisons if one.point]
    left = [place for place, title in enumerate(TITLES) if title not in NUMBERS]
    alone = [(one.record.name, one.record.dataset.title, one.remarks[0]) for one in comparisons if not one.point]
    return markdown(
        "against_paper.md",
        matched=matched and markdown_table(TITLES, map(cells, matched), left),
        sources=dict.fromkeys(f"{one.point.paper}: {one.point.source}" for one in matched),
        alone=alone and markdown_table(("run", "images", "why"), alone, left=(0, 1, 2)),
    )


def against_paper_csv(comparisons: Iterable[Comparison]) -> str:
    """One line per run; the paper's columns are empty where it has no counterpart."""
    rows = []
    for one in comparisons:
        record, point = one.record, one.point
        rows.append(
            {
                "run": record.name,
                "key": record.key,
                "method": record.method.name,
                "dataset": record.dataset.name,
                "title": record.dataset.title,
                "backbone": record.backbone.name,
                "width": record.backbone.width,
                "convention": record.backbone.convention,
                "seed": record.seed,
                "relus": record.budget.met,
                "accuracy": record.accuracy.test,
                "paper": point and point.paper,
                "paper_relus": point and point.relus,
                "paper_accuracy": point and point.accuracy,
                "difference": None if one.difference is None else round(one.difference, 4),
                "what_differs": "; ".join(one.remarks) if point else None,
                "no_counterpart": None if point else one.remarks[0],
                "confidence": point and point.confidence,
                "source": point and point.source,
            }
        )
    return csv_text(rows)
