"""Signals that end a process wait until the training is saved: for the end of the batch.

Slurm gives notice before it takes a node away, by USR2 as submitit asks it to, and submitit's handler then queues the
job again and exits. Called in the middle of a step it would lose all that was trained since the last checkpoint. So it
is called by the training, after a checkpoint. The same holds for SIGTERM where somebody handles it.
"""

import signal
import threading
from collections.abc import Callable
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class DeferredSignals:
    """Made before the training, of the handlers that are there; signals without a Python handler stay as they are."""

    def __init__(self) -> None:
        self.handlers: dict[int, Callable[..., Any]] = {}
        self.arrived: list[int] = []
        if threading.current_thread() is threading.main_thread():  # only this thread may set handlers
            found = {number: signal.getsignal(number) for number in NUMBERS}
            self.handlers = {number: handler for number, handler in found.items() if callable(handler)}

    def begin(self) -> None:
        """Defer from now on. Lightning puts its own handlers before a fit and gives the former ones back after it."""
        for number in self.handlers:
            signal.signal(number, self._arrive)

    def _arrive(self, number: int, frame: Any) -> None:
        if number not in self.arrived:
            self.arrived.append(number)

    def handle(self) -> None:
        """Call the handlers of what has arrived, in that order; they may raise."""
        while self.arrived:
            number = self.arrived.pop(0)
            self.handlers[number](number, None)
