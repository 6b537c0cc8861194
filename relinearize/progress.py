"""What a person sees while something takes long: a bar on a terminal, plain lines elsewhere. All on standard error."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress


def say(message: str) -> None:
    """One line on standard error, at once."""
    print(message, file=sys.stderr, flush=True)


def terminal_bar(*columns: Any, shown: bool | None = None, transient: bool = False) -> "Progress":
    """A rich progress bar on standard error: description, bar, `columns`, time passed, time left.

    shown: without it the bar is disabled; None: if standard error is a terminal. transient: it is removed when the work
    is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    description = TextColumn("{task.description}", style="bold", markup=False)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (description, BarColumn(bar_width=30), *columns, *times)
    disable = not (sys.stderr.isatty() if shown is None else shown)
    return Progress(*columns, console=Console(stderr=True), transient=transient, disable=disable)


def stop(bar: "Progress") -> None:
    """Stop a bar that was started; older rich would print an empty line for a disabled one."""
    if bar.live.is_started:
        bar.stop()


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
        self.bar = terminal_bar(*_amounts(unit), shown=bar, transient=transient)
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        stop(self.bar)

    def begins(self, group: str, announce: bool = False) -> None:
        """`group` is worked on from now; `announce`: without a bar, a line says so."""
        self.bar.update(self.task, description=group)
        if announce and self.bar.disable:
            self.line(group)

    def done(self, units: float) -> None:
        """A piece of `units` is done, now or by an earlier process."""
        self.bar.advance(self.task, units)

    def says(self, message: str) -> None:
        """A line that stays: above the bar, or in the log."""
        if self.bar.disable:
            self.line(message)
        else:
            self.bar.console.print(message, highlight=False, markup=False)


def _amounts(unit: str | None) -> tuple[Any, ...]:
    from rich.progress import DownloadColumn, TaskProgressColumn, TextColumn, TransferSpeedColumn

    if unit == "bytes":
        return DownloadColumn(), TransferSpeedColumn()
    return (
        TaskProgressColumn() if unit is None else TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
    )
