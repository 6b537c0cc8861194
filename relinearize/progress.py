"""What a person sees while something takes long: a bar on a terminal, plain lines elsewhere. All on standard error."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress


def say(message: str) -> None:
    """One line on standard error, at once."""
    print(message, file=sys.stderr, flush=True)


def terminal_bar(*columns: Any, transient: bool = False) -> "Progress":
    """A rich progress bar on standard error: description, bar, `columns`, time passed, time left.

    transient: it is removed when the work is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    description = TextColumn("{task.description}", style="bold", markup=False)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    shown = (description, BarColumn(bar_width=30), *columns, *times)
    return Progress(*shown, console=Console(stderr=True), transient=transient)


class WorkProgress:
    """A context manager: one bar over work of `total` units, or a line for each group of pieces.

    Args:
        total: of the work, in any unit; None while it is unknown.
        unit: "bytes" shows amounts and speed; another word shows "120/300 word"; None shows the percentage.
        transient: a finished bar is removed.
        bar: whether there is one; None shows one if standard error is a terminal.
        line: takes the lines that are printed in the place of a bar.
    """

    def __init__(
        self,
        total: float | None,
        unit: str | None = None,
        transient: bool = False,
        bar: bool | None = None,
        line: Callable[[str], Any] = say,
    ) -> None:
        self.line = line
        self.bar: Progress | None = None
        self.group = ""
        if sys.stderr.isatty() if bar is None else bar:
            self.bar = terminal_bar(*_amounts(unit), transient=transient)
            self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begins(self, group: str, announce: bool = False) -> None:
        """`group` is worked on from now; `announce`: without a bar, a line says so."""
        if self.bar is None:
            if announce:
                self.line(group)
        elif group != self.group:
            self.bar.update(self.task, description=group)
        self.group = group

    def done(self, units: float) -> None:
        """A piece of `units` is done, now or by an earlier process."""
        if self.bar is not None:
            self.bar.advance(self.task, units)

    def says(self, message: str) -> None:
        """A line that stays: above the bar, or in the log."""
        if self.bar is not None:
            self.bar.console.print(message, highlight=False, markup=False)
        else:
            self.line(message)


def _amounts(unit: str | None) -> tuple[Any, ...]:
    from rich.progress import DownloadColumn, TaskProgressColumn, TextColumn, TransferSpeedColumn

    if unit == "bytes":
        return DownloadColumn(), TransferSpeedColumn()
    return (
        TaskProgressColumn() if unit is None else TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
    )
