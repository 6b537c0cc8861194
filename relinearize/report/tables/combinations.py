"""Any search x any fine-tuning: one matrix per network and budget, of the runs whose method is named SEARCH+FINETUNING.

So sweep/ablation names them; other methods are not in these matrices, nor are runs named METHOD+REPLACEMENT.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from pandas import DataFrame

from relinearize.records.run import Record
from relinearize.relu.replacement import IDENTITY
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.text import left_out_note, markdown, markdown_table, share_text, spread_text


@dataclass(frozen=True, eq=False)
class Matrix:
    """Test accuracies in percent at one budget. `means`, `texts` (with the spread over seeds): searches x fine-tunings,
    NaN or "-" where not run; `left_out`: further curves of a cell, which it does not show."""

    title: str
    network: str
    asked: int
    budget: str
    means: DataFrame
    texts: DataFrame
    left_out: frozenset[int] = frozenset()


def build_matrices(panels: Iterable[Panel]) -> list[Matrix]:
    """In the order of the curves, larger budgets first; none without at least two runs that share a search or a
    fine-tuning. Recipes that differ in more than their names are not averaged: the first one counts."""
    runs = pd.concat([panel.runs for panel in panels])
    stages = runs["method"].str.extract(r"^(?P<search>[^+]+)\+(?P<finetuning>[^+]+)$")
    runs = runs.join(stages[["search", "finetuning"]])
    main = runs["record"].map(lambda record: record.submodel is None and not _allocated(record))
    main &= runs["replacement"] == IDENTITY
    runs = runs[main & runs["search"].notna() & runs["test"].notna()]
    cell = ["title", "network", "asked", "total", "search", "finetuning"]
    cells = runs.groupby([*cell, "curve"], sort=False)["test"].agg(["mean", "std"]).reset_index()
    others = cells.duplicated([*cell[:3], *cell[4:]])
    left_out = cells[others].groupby(cell[:3])["curve"].agg(frozenset)
    cells = cells[~others]
    matrices = []
    for (title, network, asked), own in cells.groupby(["title", "network", "asked"]):
        own = own.assign(text=[spread_text(mean, std) for mean, std in zip(own["mean"], own["std"], strict=True)])
        means, texts = (own.pivot(index="search", columns="finetuning", values=name) for name in ("mean", "text"))
        budget = f"{asked:,} ReLUs, {share_text(asked / own['total'].iloc[0])}"
        if len(own) > max(means.shape) > 1:
            others = left_out.get((title, network, asked), frozenset())
            matrices.append(Matrix(title, network, asked, budget, means, texts.fillna("-"), others))
    return sorted(matrices, key=lambda one: (one.title, one.network, -one.asked))


def _allocated(record: Record) -> bool:
    """Whether the second part of its name is an allocation, and no fine-tuning: snl+sites."""
    return (record.config.get("allocation") or {}).get("name", "free") != "free"


def combinations_markdown(matrices: Sequence[Matrix]) -> str:
    """One table per network: rows are a budget and a search, columns fine-tunings; best of a budget in bold."""
    tables: dict[tuple, list[tuple[DataFrame, Matrix]]] = {}
    for matrix in matrices:
        best = matrix.means == matrix.means.max(axis=None)
        rows = matrix.texts.mask(best, "**" + matrix.texts + "**").reset_index()
        rows.insert(0, "budget", matrix.budget)
        tables.setdefault((f"{matrix.title}, {matrix.network}", *rows), []).append((rows, matrix))
    shown = []
    for head, parts in tables.items():
        rows, matrices = zip(*parts, strict=True)
        curves = set().union(*(matrix.left_out for matrix in matrices))
        shown.append((head[0], markdown_table(pd.concat(rows), left=("budget", "search")), left_out_note(curves)))
    return markdown("combinations.md", tables=shown)
