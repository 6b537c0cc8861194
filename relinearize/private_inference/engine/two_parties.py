"""Starts the two parties as processes, exchanges messages with them, and leaves none behind."""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from relinearize.errors import UserError
from relinearize.private_inference.engine.job import PARTIES, log_file

# -P: the user's folder hides no package.
PARTY = (sys.executable, "-P", "-m", "relinearize.private_inference.engine.party")


class TwoParties:
    """A context manager. `both` waits for the next event of each; a party that ends or is silent raises UserError.

    Leaving the context always ends both processes. They also end by themselves if this one is killed.
    """

    def __init__(self, folder: Path, timeout: float, party: tuple[str, ...] = PARTY) -> None:
        """`folder`: of the job and the logs; `timeout`: seconds that a party may be silent."""
        self.folder, self.timeout, self.party = folder, timeout, party
        self.processes: list[subprocess.Popen] = []
        self._heard: queue.SimpleQueue[tuple[int, dict[str, Any] | None]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        try:
            for rank in range(len(PARTIES)):
                self.processes.append(self._started(rank))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # a command that the dead party has not read
                    pipe.close()

    def _started(self, rank: int) -> subprocess.Popen:
        with open(log_file(self.folder, rank), "ab") as log:
            process = subprocess.Popen(
                [*self.party, str(self.folder), str(rank)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the starter, which ends them
            )  # fmt: skip
        threading.Thread(target=self._listen, args=(rank, process), daemon=True).start()
        return process

    def _listen(self, rank: int, process: subprocess.Popen) -> None:
        with contextlib.suppress(ValueError):  # closed by __exit__
            for line in process.stdout:
                self._heard.put((rank, json.loads(line)))
        self._heard.put((rank, None))

    def tell(self, **command: Any) -> None:
        """One command to both."""
        for process in self.processes:
            with contextlib.suppress(BrokenPipeError):  # it has ended: `both` will report it
                process.stdin.write(json.dumps(command) + "\n")
                process.stdin.flush()

    def both(self) -> list[dict[str, Any]]:
        """The next event of each party, by rank."""
        events: dict[int, dict[str, Any]] = {}
        deadline = time.monotonic() + self.timeout
        while len(events) < len(self.processes):
            try:
                rank, event = self._heard.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                silent = [rank for rank in range(len(self.processes)) if rank not in events]
                self._fail(silent, f"was silent for {self.timeout:g} s (timeout=)")
            if event is None:
                self._fail([rank], f"ended: {how_it_ended(self.processes[rank])}")
            if event["event"] == "failed":
                raise UserError(f"the {PARTIES[rank]} cannot take part: {event['reason']}")
            events[rank] = event
        return [events[rank] for rank in sorted(events)]

    def _fail(self, ranks: list[int], what: str) -> NoReturn:
        who = " and ".join(f"the {PARTIES[rank]}" for rank in ranks)
        logs = ", ".join(str(log_file(self.folder, rank)) for rank in ranks)
        raise UserError(f"{who} {what}; see {logs}")


def how_it_ended(process: subprocess.Popen) -> str:
    """ "killed by SIGKILL" or "exit status 1", of a process that closed its standard output."""
    try:
        status = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "its output closed"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise SystemExit, so that every context manager is left properly."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
