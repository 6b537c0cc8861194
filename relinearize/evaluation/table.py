"""The end of `relinearize evaluate evaluation=robust` on a terminal: one row per route, then the sanity checks."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape

from relinearize.errors import user_error_behind
from relinearize.records.robustness import RobustRecord
from relinearize.terminal import new_table, print_table

Cell = tuple[str, int]  # value, n


def show_robustness(records: Sequence[RobustRecord], console: Console) -> None:
    """All accuracies in percent. Where the rows of a column have the same n it stands in the column's head."""
    first = records[0]
    radii = {attack.epsilon for record in records for attack in record.attacks}
    common = radii.pop() if len(radii) == 1 else None
    attacks = "" if common is None else f", attacks of epsilon {common:g}/255"
    table = new_table(f"{first.name} on {first.title}: accuracies in %{attacks}", padding=(0, 1, 0, 0), pad_edge=True)
    table.add_column("route", no_wrap=True)
    table.add_column("ReLUs", justify="right")
    rows = [cells(record, common) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        counts = {row[name][1] for row in rows if name in row}
        head = f"{name}\n{f'n={min(counts):,}' if len(counts) == 1 else '(n)'}"
        table.add_column(escape(head), justify="right", min_width=max(map(len, head.split())))
        for row in rows:
            if len(counts) > 1 and name in row:
                row[name] = (f"{row[name][0]} ({row[name][1]:,})", row[name][1])
    for record, row in zip(records, rows, strict=True):
        values = [row[name][0] if name in row else "-" for name in names]
        table.add_row(escape(row_name(record, records)), f"{record.relus:,}", *values)
    print_table(table, console)
    for record in records:
        prefix = f"{row_name(record, records)}: " if len(records) > 1 else ""
        for line in notes(record):
            console.print(escape(prefix) + line, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def shown_anyway() -> Iterator[None]:
    """Around the storing of results that were printed: a run may be a colleague's, a disk read-only or full."""
    try:
        yield
    except OSError as error:
        print(f"relinearize: these results could not be stored: {user_error_behind(error) or error}", file=sys.stderr)


def cells(record: RobustRecord, common: float | None) -> dict[str, Cell]:
    """Column -> (value, n) of one row; `common`: the radius of all attacks, which is not in the columns then."""
    found = {"CA": (f"{record.clean.accuracy:.2f}", record.clean.n)}
    if corrupted := record.corruptions:
        found["NPA"] = (f"{corrupted.npa:.2f}", corrupted.n)
        found["mCE"] = (f"{corrupted.mce:.2f}", corrupted.n)
    for attack in record.attacks:
        radius = "" if attack.epsilon in (None, common) else f" {attack.epsilon:g}/255"
        found[f"{attack.label}{radius}"] = (f"{attack.accuracy:.2f}", attack.n)
    return found


def row_name(record: RobustRecord, records: Sequence[RobustRecord]) -> str:
    """The route, and the width where the rows differ in it."""
    route = record.route or "-"
    return route if len({other.width for other in records}) == 1 else f"{route}, width {record.width}"


def notes(record: RobustRecord) -> Iterator[str]:
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
