"""The runs, and their robustness, as tables for the terminal, printed at the end of a run and of a report."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from relinearize.private_inference.cost.presets import Preset, one_preset
from relinearize.private_inference.cost.table import significant
from relinearize.records.run import Record
from relinearize.report.papers.comparison import NUMBERS, TITLES, Comparison, cells
from relinearize.report.tables.cost import predicted_costs, preset_text

if TYPE_CHECKING:  # a run prints its row without pandas
    from relinearize.report.tables.combinations import Matrix
    from relinearize.report.tables.robustness import RobustTable

_WIDE = 1000  # characters, more than any table needs


def runs_table(records: Iterable[Record], preset: Preset) -> Table:
    """One row per run, sorted by dataset, method and budget; accuracies in percent, time in seconds.

    live sites: those that keep any ReLU; then what one image costs online under `preset`, predicted.
    """
    records = sorted(records, key=_order)
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1), collapse_padding=True)
    # Columns that would say nothing new are left out, so that the rest has room on a narrow terminal.
    several_sets = len({record.dataset.title for record in records}) > 1
    methods = not all(record.name.startswith(f"{record.method.name}-") for record in records)
    missed = any(record.budget.met != record.budget.asked for record in records)
    sent = preset.network is not None
    for name in ("run", *["dataset"] * several_sets, *["method"] * methods):
        table.add_column(name, overflow="fold")
    counts, costs = ["asked"] * missed + ["ReLUs", "ReLU %"], ["live\nsites", "PI s"] + ["PI MB"] * sent
    for name in (*counts, "test", "last", "all-\nReLU", "train s", *costs):
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for record in records:
        budget, accuracy, cost = record.budget, record.accuracy, predicted_costs(record, preset)
        met = f"{budget.met:,}"
        table.add_row(
            escape(record.name),
            *[escape(record.dataset.title)] * several_sets,
            *[escape(record.method.name)] * methods,
            *[f"{budget.asked:,}"] * missed,
            met if budget.met == budget.asked else f"[red]{met}[/red]",
            f"{100 * budget.met / budget.total:.2f}" if budget.total else "-",
            f"[bold]{_percent(accuracy.test)}[/bold]",
            _percent(accuracy.test_last),
            _percent(accuracy.teacher_test),
            f"{sum(stage.seconds for stage in record.stages.values() if not stage.reused):.1f}",
            str(cost["live_sites"]),
            _significant(cost[f"{preset.name}_s"]),
            *[_significant(cost[f"{preset.name}_mb"])] * sent,
        )
    return table


def robustness_table(table: "RobustTable") -> Table:
    """One row per checkpoint and route, seeds averaged; the oracle's reading is left to the files and the page."""
    shown = _table(table.title)
    several = len(table.networks) > 1
    for name in ("method", *["network"] * several, "route"):
        shown.add_column(name, overflow="fold")
    titles = []
    for column in table.columns:
        counts = sorted({row.cells[column.key].n for row in table.rows if column.key in row.cells})
        numbers = "\nn " + " or ".join(f"{count:,}" for count in counts) if counts else ""
        titles.append(escape(column.title.replace(", ", "\n")) + numbers)
    for name in ("ReLUs", *titles, "seeds", "checks"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in table.rows:
        cells = [escape(row.label), *[escape(row.network)] * several, row.route, f"{row.first.relus:,}"]
        for column in table.columns:
            measure = row.cells.get(column.key)
            cells.append("-" if measure is None else f"[bold]{measure}[/bold]" if measure.best else str(measure))
        passed, number = row.checks
        warned = f"[red]{number - passed} warn[/red]" if passed < number else "pass" if number else "-"
        shown.add_row(*cells, ", ".join(map(str, row.seeds)), warned)
    return shown


def print_combinations(matrices: "Iterable[Matrix]", console: Console | None = None) -> None:
    """Print one table per network and budget: rows are searches, columns fine-tunings."""
    for matrix in matrices:
        title = f"{matrix.title}, {matrix.network}: {matrix.budget}, test accuracy in %"
        shown = _table(title, min_width=len(title))  # a title is wrapped to the width of its table
        shown.add_column("search")
        for finetuning in matrix.texts.columns:
            shown.add_column(escape(finetuning), justify="right")
        for search, *texts in matrix.texts.itertuples():
            shown.add_row(escape(search), *texts)
        _print(shown, console)


def print_against_paper(comparisons: Sequence[Comparison], console: Console | None = None) -> None:
    """Print the runs beside the papers' numbers, then those without a counterpart and why."""
    matched = [one for one in comparisons if one.point is not None]
    alone = [one for one in comparisons if one.point is None]
    if matched:
        shown = _table("Against the papers (test accuracy, %)")
        for title in TITLES:
            number = title in NUMBERS
            shown.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="fold")
        for one in matched:
            shown.add_row(*map(escape, cells(one)))
        _print(shown, console)
    if alone:
        shown = _table("No published counterpart")
        for title in ("run", "images", "why"):
            shown.add_column(title)
        for one in alone:
            shown.add_row(*map(escape, (one.record.name, one.record.dataset.title, one.remarks[0])))
        _print(shown, console)


def print_runs(records: Iterable[Record], console: Console | None = None, preset: Preset | None = None) -> None:
    """Print the runs and what `preset` (None: Cheetah on the WAN) is. In a file no row is folded."""
    console, preset = console or Console(), preset or one_preset()
    _print(runs_table(records, preset), console)
    text = f"PI: private inference of one image online, predicted for {preset.name}: {preset_text(preset)}"
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def print_robustness(tables: "Iterable[RobustTable]", console: Console | None = None) -> None:
    """Print each robustness table, likewise."""
    for table in tables:
        _print(robustness_table(table), console)


def _table(title: str, **options: Any) -> Table:
    return Table(
        box=SIMPLE_HEAD, header_style="bold", pad_edge=False, title=escape(title), title_justify="left", **options
    )


def _print(table: Table, console: Console | None) -> None:
    console = console or Console()
    if not console.is_terminal:
        least = Measurement.get(console, console.options.update(width=_WIDE), table).maximum
        console = Console(file=console.file, width=max(console.width, 160, least))
    console.print(table)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _significant(value: float | None) -> str:
    return "-" if value is None else significant(value)


def _order(record: Record) -> tuple:
    last = record.method.name == "random"  # the yardstick comes after the methods
    names = (record.dataset.name, record.backbone.name, last, record.method.name)
    return (*names, -record.budget.asked, record.seed, record.name)
