"""Tables and durations for people, on a terminal and in files."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table

WIDE = 10_000  # characters, more than any table needs

# Columns of a table; a name alone is one that is flush left.
right_column = partial(Column, justify="right")
number_column = partial(right_column, no_wrap=True)
text_column = partial(Column, overflow="fold")


def new_table(title: str | None = None, *columns: Column | str, **options: Any) -> Table:
    """A table of `columns` without a frame; its title, plain text, stands at its left."""
    look = {"box": SIMPLE_HEAD, "header_style": "bold", "pad_edge": False, "title_justify": "left"}
    return Table(*columns, title=None if title is None else escape(title), **{**look, **options})


def print_table(table: Table, console: Console | None = None, whole: bool = False) -> None:
    """Print `table`, never cut off: no row is folded in a file; on a narrow terminal one is, or lines wrap.

    `whole`: no row is folded there, either.
    """
    console = console or Console()
    width = Measurement.get(console, console.options.update(width=WIDE), table)
    if whole or not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, width.maximum))
    elif not any(column.overflow == "fold" for column in table.columns) and width.minimum > console.width:
        table.width = width.minimum
    console.print(table, crop=False)


def print_lines(lines: Iterable[str], console: Console | None = None) -> None:
    """Print plain text; the terminal wraps it."""
    (console or Console()).print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def duration(seconds: float) -> str:
    """5 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    rounded = round(seconds)
    for unit, name, lower, lower_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if rounded >= unit:
            return f"{rounded // unit} {name} {rounded % unit // lower} {lower_name}"
    return f"{rounded} s"
