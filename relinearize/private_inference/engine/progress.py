"""What a person sees while two parties compute: a bar on a terminal, a few plain lines elsewhere."""

import sys
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.console import Console

STEPS_BEFORE = 3  # compiling, starting, the first inference


class Progress:
    """A context manager; `now(step, done)` says what begins and how many of the images are done."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.steps = 0
        console = Console(stderr=True)
        self.bar = None
        if console.is_terminal:
            self.bar = rich_progress.Progress(
                rich_progress.TextColumn("[bold]{task.description}"),
                rich_progress.BarColumn(bar_width=30),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TimeRemainingColumn(),
                console=console,
            )

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("", total=STEPS_BEFORE + self.images)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            if kind is None:
                self.bar.update(self.task, completed=STEPS_BEFORE + self.images)
            self.bar.stop()

    def now(self, step: str, done: int | None = None) -> None:
        text = step if done is None or done >= self.images else f"image {done + 1} of {self.images}"
        completed = self.steps if done is None else STEPS_BEFORE + done
        self.steps = completed + 1
        if self.bar is not None:
            self.bar.update(self.task, description=text, completed=completed)
        elif done is None or done % max(1, self.images // 10) == 0:
            print(text, file=sys.stderr, flush=True)
