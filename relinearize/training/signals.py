"""Signals that end a process are deferred until the training is saved, at the end of the batch.

Slurm announces the end of a job by a signal, USR2 as submitit asks for; submitit's handler then queues the job again
and exits. In the middle of a step it would lose everything trained since the last checkpoint, so the training calls it
after a save. The same holds for SIGTERM where it has a handler.
"""

import signal
import threading
from collections.abc import Callable
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class DeferredSignals:
    """Takes over the Python handlers that exist when it is made; other signals stay as they are."""

    def __init__(self) -> None:
        self.handlers: dict[int, Callable[..., Any]] = {}
        self.arrived: list[int] = []
        if threading.current_thread() is threading.main_thread():  # only this thread may set handlers
            found = {number: signal.getsignal(number) for number in NUMBERS}
            self.handlers = {number: handler for number, handler in found.items() if callable(handler)}

    def begin(self) -> None:
        """Defer from now on. Lightning sets its own handlers before a fit and restores the previous ones after it."""
        for number in self.handlers:
            signal.signal(number, self._arrive)

    def _arrive(self, number: int, frame: Any) -> None:
        if number not in self.arrived:
            self.arrived.append(number)

    def handle(self) -> None:
        """Call the handlers of the signals that have arrived, in that order; they may raise."""
        while self.arrived:
            number = self.arrived.pop(0)
            self.handlers[number](number, None)
