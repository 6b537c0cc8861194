"""Whether processes still run, and how long a test waits for one."""

import time
from collections.abc import Iterable
from pathlib import Path

LIMIT = 200  # seconds: only what hangs takes so long, even on a busy machine


def alive(pid: int) -> bool:
    """Whether it runs: a zombie that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: Iterable[int], seconds: float = LIMIT) -> bool:
    """Whether none of them runs after so long at most."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))
