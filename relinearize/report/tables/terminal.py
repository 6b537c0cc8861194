"""The runs, and their robustness, as tables for the terminal, printed at the end of a run and of a report."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from relinearize.private_inference.cost.presets import Preset, one_preset
from relinearize.private_inference.cost.table import significant
from relinearize.records.robustness import RobustRecord
from relinearize.records.run import Record
from relinearize.report.tables.cost import predicted_costs, preset_text
from relinearize.report.tables.robustness import RobustTable, build_tables
from relinearize.report.tables.text import left_out_note, method_order, spread_text
from relinearize.terminal import new_table, number_column, print_lines, print_table, text_column

if TYPE_CHECKING:  # a run prints its row without pandas
    from pandas import DataFrame

    from relinearize.report.tables.combinations import Matrix


def print_runs(records: Iterable[Record], console: Console | None = None, preset: Preset | None = None) -> None:
    """Print one row per run, sorted by dataset, method and budget; accuracies in percent, time in seconds.

    live sites: those that keep any ReLU; then what one image costs online under `preset` (None: Cheetah on the WAN),
    predicted, with a line that says what the preset is. Columns that would say nothing new are left out, so that the
    rest has room on a narrow terminal.
    """
    records, preset = sorted(records, key=_order), preset or one_preset()
    several_sets = len({record.dataset.title for record in records}) > 1
    methods = not all(record.name.startswith(f"{record.method.name}-") for record in records)
    units = len({(record.unit, record.replacement) for record in records}) > 1
    missed = any(record.budget_missed for record in records)
    sent = preset.network is not None
    names = ("run", *["dataset"] * several_sets, *["method"] * methods, *["removed", "replaced by"] * units)
    counts, costs = ["asked"] * missed + ["ReLUs", "ReLU %"], ["live\nsites", "PI s"] + ["PI MB"] * sent
    numbers = (*counts, "test", "last", "all-\nReLU", "train s", *costs)
    columns = [*map(text_column, names), *(number_column(name, vertical="bottom") for name in numbers)]
    table = new_table(None, *columns, padding=(0, 1), collapse_padding=True)
    for record in records:
        budget, accuracy, cost = record.budget, record.accuracy, predicted_costs(record, preset)
        met = f"{budget.met:,}"
        table.add_row(
            escape(record.name),
            *[escape(record.dataset.title)] * several_sets,
            *[escape(record.method.name)] * methods,
            *[record.unit or "-", record.replacement] * units,
            *[f"{budget.asked:,}"] * missed,
            f"[red]{met}[/red]" if record.budget_missed else met,
            f"{100 * budget.met / budget.total:.2f}" if budget.total else "-",
            f"[bold]{_number(accuracy.test)}[/bold]",
            _number(accuracy.test_last),
            _number(accuracy.teacher_test),
            f"{sum(stage.seconds for stage in record.stages.values() if not stage.reused):.1f}",
            str(cost["live_sites"]),
            _number(cost[f"{preset.name}_s"], significant),
            *[_number(cost.get(f"{preset.name}_mb"), significant)] * sent,
        )
    print_table(table, console)
    about = f"PI: private inference of one image online, predicted for {preset.name}: {preset_text(preset)}"
    print_lines([about], console)


def _order(record: Record) -> tuple:
    names = (record.dataset.name, record.backbone.name)
    return (*names, *method_order(record.method.name), -record.budget.asked, record.seed, record.name)


def _number(value: float | None, text_of: Callable[[float], str] = "{:.2f}".format) -> str:
    return "-" if value is None else text_of(value)


def print_combinations(matrices: "Iterable[Matrix]") -> None:
    """Print one table per network and budget: rows are searches, columns fine-tunings."""
    for matrix in matrices:
        texts = matrix.texts.reset_index()
        title = f"{matrix.title}, {matrix.network}: {matrix.budget}, test accuracy in %"
        print_texts(title, texts, right=texts.columns[1:])
        if note := left_out_note(matrix.left_out):
            print_lines([note])


def print_texts(title: str, texts: "DataFrame", right: Iterable[str] = ()) -> None:
    """Print a table of texts; the columns `right` are flush right and never folded."""
    columns = [number_column(escape(name)) if name in right else escape(name) for name in texts]
    shown = new_table(title, *columns, min_width=len(title))  # a title is wrapped to the width of its table
    for row in texts.itertuples(index=False):
        shown.add_row(*map(escape, row))
    print_table(shown)


def print_robustness(tables: Iterable[RobustTable], console: Console | None = None, digits: int = 1) -> None:
    """Print each robustness table: one row per checkpoint and route, seeds averaged; `digits` behind the point.

    The oracle's reading is left to the files and the page.
    """
    for table in tables:
        several = len(table.networks) > 1
        titles = []
        for column in table.columns:
            words = filter(None, (column.title, table.basis(column)))
            titles.append(escape(", ".join(words).replace(", ", "\n")))
        names, numbers = ("method", *["network"] * several, "route"), ("ReLUs", *titles, "seeds", "checks")
        shown = new_table(table.title, *map(text_column, names), *map(number_column, numbers))
        for row in table.rows:
            cells = [escape(row.label), *[escape(row.network)] * several, escape(row.route), f"{row.relus:,}"]
            for key in (column.key for column in table.columns):
                measure = row.cells.get(key)
                text = spread_text(measure.value, measure.deviation, digits) if measure else "-"
                text = f"[bold]{text}[/bold]" if measure and measure.best else text
                cells.append(text + (f"\n({row.notes[key]})" if key in row.notes else ""))
            passed, number = row.checks
            warned = f"[red]{number - passed} warn[/red]" if passed < number else "pass" if number else "-"
            shown.add_row(*cells, ", ".join(map(str, row.seeds)), warned)
        print_table(shown, console, whole=True)  # so many numbers leave too little room for names that are folded


def print_evaluation(records: Sequence[RobustRecord], console: Console) -> None:
    """Print what `relinearize evaluate` measured of one run, its first record, and of its other routes and widths.

    Below the table: the attacks' settings and, for each row, its corrupted images and a line for each check.
    """
    (table,) = build_tables(records)
    rows = table.checkpoints
    columns = [column for column in table.columns if any(column.key in row.cells for row in rows)]
    title = f"{records[0].name} on {table.title}: accuracies in %"
    print_robustness([replace(table, title=title, columns=columns, rows=rows)], console, digits=2)
    lines = [escape(f"{column.title}: {column.described}") for column in columns if column.is_attack]
    for row in rows:
        names = [row.route, *[row.network] * (len(table.networks) > 1)] if len(rows) > 1 else []
        lines += [escape(f"{', '.join(names)}: " if names else "") + line for line in _notes(row.first)]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _notes(record: RobustRecord) -> Iterator[str]:
    """What was left out, where corrupted images are from, and a line for each check; with Rich's markup."""
    if corrupted := record.corruptions:
        left_out = f"; left out: {', '.join(corrupted.left_out)}" if corrupted.left_out else ""
        count = len(corrupted.accuracy)
        yield escape(
            f"{count} corruptions, {corrupted.source}, {corrupted.constants} constants{left_out}; "
            f"mCE: {corrupted.mce_anchor}"
        )
    for check in record.checks:
        verdict = "[green]pass[/green]" if check.passed else "[bold yellow]warn[/bold yellow]"
        yield f"{verdict}  {escape(f'{check.name}: {check.message}')}"
