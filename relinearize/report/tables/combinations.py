"""Any search x any fine-tuning: one matrix per network and budget, of the runs whose method is named SEARCH+FINETUNING.

So sweep/ablation names them; other methods are not in these matrices.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from relinearize.report.figures.style import share_text
from relinearize.report.tables.pareto import Panel, Spread


@dataclass
class Matrix:
    """Test accuracies in percent at one budget; `cells`: (search, fine-tuning) -> mean and spread over seeds."""

    title: str
    network: str
    asked: int
    total: int
    cells: dict[tuple[str, str], Spread] = field(default_factory=dict)

    @property
    def searches(self) -> list[str]:
        return sorted({search for search, _ in self.cells})

    @property
    def finetunings(self) -> list[str]:
        return sorted({finetuning for _, finetuning in self.cells})

    @property
    def budget(self) -> str:
        return f"{self.asked:,} ReLUs, {share_text(self.asked / self.total)}"


def build_matrices(panels: Iterable[Panel]) -> list[Matrix]:
    """In the order of the curves, larger budgets first; none without at least two runs that share a search or a
    fine-tuning. Recipes that differ in more than their names are not averaged: the first one counts."""
    matrices: dict[tuple, Matrix] = {}
    for panel in panels:
        for series in panel.series:
            stages = series.method.split("+")
            if len(stages) != 2 or not all(stages):
                continue
            for point in series.points:
                own = [record for record in point.records if record.submodel is None]
                accuracy = Spread.of(record.accuracy.test for record in own)
                if accuracy is None:
                    continue
                place = (panel.title, series.network, point.asked)
                matrix = matrices.setdefault(place, Matrix(*place, series.total))
                matrix.cells.setdefault((stages[0], stages[1]), accuracy)
    found = [one for one in matrices.values() if len(one.cells) > max(len(one.searches), len(one.finetunings)) > 1]
    return sorted(found, key=lambda one: (one.title, one.network, -one.asked))


def combinations_markdown(matrices: Sequence[Matrix]) -> str:
    """One table per network: rows are a budget and a search, columns fine-tunings; best of a budget in bold."""
    lines: list[str] = ["# Any search x any fine-tuning: test accuracy in percent", ""]
    last = None
    for matrix in matrices:
        finetunings = matrix.finetunings
        head = (matrix.title, matrix.network, finetunings)
        if head != last:
            lines += [] if last is None else [""]
            lines += [f"{matrix.title}, {matrix.network}", ""]
            lines += ["| budget | search | " + " | ".join(finetunings) + " |"]
            lines += ["| --- | --- |" + " ---: |" * len(finetunings)]
            last = head
        best = max(cell.mean for cell in matrix.cells.values())
        for search in matrix.searches:
            cells = [matrix.cells.get((search, finetuning)) for finetuning in finetunings]
            texts = ["-" if cell is None else f"**{cell}**" if cell.mean == best else str(cell) for cell in cells]
            lines.append(f"| {matrix.budget} | {search} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"
