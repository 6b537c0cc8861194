#!/usr/bin/env python3
"""Compare the sensitivities of finished runs with those that SENet's released keep lists imply.

    python scripts/compare_sensitivity.py outputs/runs/NAME
    python scripts/compare_sensitivity.py results/senet/runs --out results/senet

Takes records or folders that hold some. Prints, for each vector of sensitivities among them, a table of the sites (both
relative to their maximum) and Spearman's rank correlation, and writes sensitivity.csv and sensitivity.png, beside the
first record that is used or into --out. For resnet18, resnet34, wrn22_8 and vgg16_bn.
"""

import argparse
import math
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from relinearize.errors import UserError
from relinearize.files import write_bytes
from relinearize.methods.senet.released import RELEASED, released_vector
from relinearize.records.run import Record, find_records
from relinearize.report.figures.canvas import GREY, new_figure, png
from relinearize.report.figures.style import method_colours
from relinearize.report.tables.text import csv_text
from relinearize.terminal import right_column

STYLE = {"font.size": 9, "axes.edgecolor": "#9aa0a9", "axes.spines.top": False, "axes.spines.right": False}


@dataclass(frozen=True)
class Comparison:
    """The sensitivities of one or several runs beside the released ones, relative to their maxima, in forward order."""

    title: str
    sites: tuple[str, ...]
    ours: tuple[float, ...]
    released: tuple[float, ...]

    @property
    def correlation(self) -> tuple[float, float]:
        """Spearman's rank correlation and its p-value; NaN where all sites are alike."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's word about constant input
            result = spearmanr(self.ours, self.released)
        return float(result.statistic), float(result.pvalue)

    @property
    def correlation_of_order(self) -> float:
        """What the bare order of the sites would reach: the measure to hold the correlation against."""
        return float(spearmanr(range(len(self.sites)), self.released).statistic)

    @property
    def difference(self) -> float:
        """The mean absolute difference."""
        return sum(abs(own - other) for own, other in zip(self.ours, self.released, strict=True)) / len(self.sites)


def compare(record: Record) -> Comparison:
    """Raises UserError, without the path, where the record has nothing to compare."""
    values = [site.sensitivity for site in record.sites]
    if not values or None in values:
        raise UserError("the run used no sensitivities; only searches that allocate do, such as method=senet")
    if "Released" in str(record.config.get("sensitivity", {}).get("_target_")):
        raise UserError("the run used the released sensitivities themselves; give one of sensitivity=computed")
    released = released_vector(record.backbone.name, len(values))
    if released is None:
        raise UserError(
            f"nothing is released for {record.backbone.name} with {len(values)} sites; only for {', '.join(RELEASED)}"
        )
    title = f"{record.backbone.name}, width {record.backbone.width}, {record.dataset.title}"
    if not max(values) > 0:
        raise UserError("all its sensitivities are 0")
    return Comparison(
        title,
        tuple(site.name for site in record.sites),
        tuple(value / max(values) for value in values),
        tuple(value / max(released) for value in released),
    )


def in_words(comparison: Comparison) -> str:
    correlation, chance = comparison.correlation
    if math.isnan(correlation):
        return "rank correlation not defined: all sites are equally sensitive"
    order = comparison.correlation_of_order
    return f"Spearman {correlation:.3f} (p = {chance:.1g}; by the order of the sites alone {order:.3f})"


def show(comparison: Comparison, runs: list[str], console: Console) -> None:
    result = Table("site", right_column("ours"), right_column("released"))
    for site, own, other in zip(comparison.sites, comparison.ours, comparison.released, strict=True):
        result.add_row(site, f"{own:.3f}", f"{other:.3f}")
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    console.print(f"{comparison.title}: {runs[0]}{more}", soft_wrap=True)
    console.print(result)
    console.print(f"{in_words(comparison)}; mean difference {comparison.difference:.3f}", soft_wrap=True)


def as_csv(comparisons: dict[Comparison, list[str]]) -> str:
    """A row per vector and site; `runs` are the names of those that used the vector."""
    rows = []
    for comparison, runs in comparisons.items():
        spearman, p = (f"{value:.6g}" for value in comparison.correlation)
        vector, rank = {"network": comparison.title, "runs": " ".join(runs)}, {"spearman": spearman, "p": p}
        for site, own, other in zip(comparison.sites, comparison.ours, comparison.released, strict=True):
            rows.append({**vector, "site": site, "ours": f"{own:.6f}", "released": f"{other:.6f}", **rank})
    return csv_text(rows)


def picture(comparisons: dict[Comparison, list[str]]) -> bytes:
    """PNG: one panel per vector, sensitivity against site."""
    with rc_context(STYLE):
        figure = new_figure(8.8, 4.6 * len(comparisons))
        grid = figure.subplots(len(comparisons), 1, squeeze=False)
        for axes, comparison in zip(grid.flat, comparisons, strict=True):
            places = range(len(comparison.sites))
            axes.plot(places, comparison.released, color=GREY, marker="s", markersize=5, label="released (SENet)")
            ours = method_colours(["senet"])["senet"]
            axes.plot(places, comparison.ours, color=ours, marker="o", markersize=6, linewidth=2, label="ours")
            axes.set_title(f"{comparison.title}\n{in_words(comparison)}", fontsize=9.5)
            axes.set_xticks(places, comparison.sites, rotation=60, ha="right", rotation_mode="anchor", fontsize=7.5)
            axes.set_ylabel("sensitivity, relative to the largest")
            axes.set_ylim(0, 1.05)
            axes.grid(axis="y", color="#e6e8ec", linewidth=0.8)
            axes.legend(frameon=False)
        return png(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, help="record.json files, or folders that hold some")
    parser.add_argument("--out", type=Path, help="folder for sensitivity.csv and sensitivity.png")
    options = parser.parse_args(arguments)
    try:
        found = find_records(options.records)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    comparisons: dict[Comparison, list[str]] = {}
    folder = options.out
    for path, record in found:
        try:
            comparisons.setdefault(compare(record), []).append(record.name)
        except UserError as error:
            print(f"{path}: {error}", file=sys.stderr)
            continue
        folder = folder or path.parent
    if not comparisons:
        return 1
    console = Console()
    for comparison, runs in comparisons.items():
        show(comparison, runs, console)
    write_bytes(folder / "sensitivity.csv", as_csv(comparisons).encode())
    write_bytes(folder / "sensitivity.png", picture(comparisons))
    console.print(f"written: {folder / 'sensitivity.csv'}, {folder / 'sensitivity.png'}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
