"""What a person sees while pieces of work are done one after the other: a bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class WorkProgress:
    """One bar over work of `total` units (any unit of time), or a line for each group of pieces.

    `bar`: None shows a bar if standard error is a terminal.
    """

    def __init__(self, total: float, bar: bool | None = None, line: Callable[[str], Any] = say) -> None:
        self.line = line
        self.bar: Progress | None = None
        self.group = ""
        if sys.stderr.isatty() if bar is None else bar:
            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> "WorkProgress":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begins(self, group: str) -> None:
        """`group` is worked on from now."""
        if self.bar is not None and group != self.group:
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
