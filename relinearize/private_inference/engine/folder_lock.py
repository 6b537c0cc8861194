"""One `relinearize infer` at a time in a folder: two would write the same logs, and each would read the other's."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from relinearize.errors import UserError

LOCK_FILE = ".infer.lock"  # stays behind: to delete it would be a race with who has just opened it


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder`, which exists. UserError names the process that holds it already; a dead one holds nothing.

    The lock is the kernel's, so that it ends with the process, however that ends.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"output={folder} cannot be written ({error.strerror})") from error
    with open(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"  # it has not yet written who it is
            raise UserError(
                f"output={folder} is in use by {holder}, an inference of its own; "
                "wait until it has ended, or name another output="
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield
