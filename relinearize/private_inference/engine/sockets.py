"""Where the two parties meet: Unix sockets in a folder that no other user can enter, and no port of any network.

SPU's links know no password and answer whoever connects, so the folder is what keeps strangers away, for both engines.
A port could also be taken by the time that a party listens at it.
"""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from relinearize.errors import UserError

LONGEST = 80  # bytes of the folder's path: systems take 103 or 107 for a socket's


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """A new folder of this user alone, removed afterwards. UserError where TMPDIR is no place for sockets."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="infer-"))
        except OSError as error:
            raise UserError(f"no folder for the sockets of the parties ({error}); set TMPDIR to another") from error
        if len(os.fsencode(folder)) > LONGEST:
            raise UserError(f"TMPDIR={Path(folder).parent} is too long a path for sockets; set TMPDIR to a shorter one")
        yield Path(folder)


def listening(path: Path | str) -> socket.socket:
    """OSError where there is something at `path` already."""
    return socket.create_server(str(path), family=socket.AF_UNIX)


def dialled(path: Path | str, timeout: float | None = None) -> socket.socket:
    """OSError where nobody listens."""
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(timeout)
    try:
        one.connect(str(path))
    except OSError:
        one.close()
        raise
    return one
