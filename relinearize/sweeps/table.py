"""A sweep's jobs as a table for the terminal: at the end of a multirun, and for `relinearize status`."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from relinearize.sweeps.status import OVER, STATES, Sweep, shown_overrides

_WIDE = 10_000  # characters, more than any table needs
_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "stopped": "red", "killed": "red", "waiting": "dim"}


def sweep_table(sweep: Sweep) -> Table:
    """One row per job in the order of the command."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, title=escape(f"sweep {sweep.folder}"))
    table.title_justify = "left"
    table.add_column("job", justify="right", no_wrap=True)
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("time", "test"):
        table.add_column(name, justify="right", no_wrap=True)
    errors = any(row.error for row in sweep.rows)
    if errors:
        table.add_column("error", overflow="fold")
    for row, words in zip(sweep.rows, shown_overrides(sweep.rows), strict=True):
        colour = _COLOURS.get(row.state, "default")
        cells = [
            str(row.number),
            escape(words),
            f"[{colour}]{'found' if row.found else row.state}[/{colour}]",
            "-" if row.seconds is None or row.found else duration(row.seconds),
            "-" if row.accuracy is None else f"{row.accuracy:.2f}",
        ]
        table.add_row(*cells, *([escape(row.error or "")] if errors else []))
    return table


def summary(sweep: Sweep) -> list[str]:
    """Counts and ETA; for a sweep that stands still, the command that goes on."""
    counts, remaining = sweep.counts, sweep.remaining
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]] or ["no job has started"]
    lines = [", ".join(parts)]
    if any(row.state not in OVER for row in sweep.rows):
        lines[0] += f"; ETA {'-' if remaining is None else duration(remaining)}"
    if not sweep.launching and not counts["running"] and counts["done"] < len(sweep.rows):
        lines += [f"not all is done and nothing is running; go on with: {sweep.command}"]
    return lines


def print_sweep(sweep: Sweep, console: Console | None = None) -> None:
    """Print the table and its summary; where there is no terminal, wide enough that no row is folded."""
    console, table = console or Console(), sweep_table(sweep)
    if not console.is_terminal:
        least = Measurement.get(console, console.options.update(width=_WIDE), table).maximum
        console = Console(file=console.file, width=max(console.width, least))
    console.print(table)
    for line in summary(sweep):
        console.print(escape(line), soft_wrap=True, highlight=False)


def duration(seconds: float) -> str:
    """5 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    whole = round(seconds)
    for unit, name, lower, lower_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // lower} {lower_name}"
    return f"{whole} s"
