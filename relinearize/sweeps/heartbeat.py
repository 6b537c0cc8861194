"""Each job touches a heartbeat file; a stale one means it was killed, as seen from any node.

A lock would tell sooner, but not every cluster's file system shares locks between nodes; all share the times of files.
"""

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BEAT = 5.0  # seconds between two touches
SILENCE = 60.0  # seconds without one after which a heartbeat is stale; covers clocks that differ a little


@dataclass
class Process:
    """A process and where its number means something: host and, for containers, the namespace of process numbers.

    begun: in clock ticks since the machine started, so that no other process ever has the same; None where that is
    unknown.
    """

    place: str
    number: int
    begun: int | None = None

    @classmethod
    def this(cls) -> "Process":
        return cls(_place(), os.getpid(), _begun(os.getpid()))


@contextlib.contextmanager
def beating(path: Path) -> Iterator[None]:
    """Touch `path` every few seconds for as long as the block runs."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(BEAT):
            with contextlib.suppress(OSError):  # a full or absent disk is for the work itself to complain about
                os.utime(path)

    thread = threading.Thread(target=beat, name=f"heartbeat of {path}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def end_with_parent() -> None:
    """From now on this process gets SIGTERM once the one that started it is gone: killed, it could tell no worker."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def alive(process: Process, path: Path) -> bool:
    """Whether `process` with the heartbeat file `path` lives.

    Seen at once on its own machine, else by the age of the file, by the clock of the file system: those of two machines
    may differ, and may be set.
    """
    if process.place == _place():
        if process.begun is not None:
            return _begun(process.number) == process.begun
        try:
            os.kill(process.number, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's, so it lives
    try:
        with open(path, "rb") as file:  # opened, not only looked at: NFS then asks its server for the time
            return _now(path.parent) - os.fstat(file.fileno()).st_mtime < SILENCE
    except OSError:
        return False


def _now(folder: Path) -> float:
    """The time that a file gets that is written in `folder` now; this machine's where that is forbidden."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _begun(number: int) -> int | None:
    """See Process; None where there is no such process, or no /proc."""
    try:
        state, *fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(fields[18])


def _place() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}".strip()
