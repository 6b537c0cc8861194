"""Files of mode 0 can be read by root alone: what root may and others may not is given up for a while."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2
VERSION_3 = 0x20080522


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """This thread is refused what the mode of a file refuses to its owner (Linux: capset(2))."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)  # 0: this thread
    capabilities = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the higher 32 of each
    assert libc.capget(header, capabilities) == 0
    before = capabilities[0]
    capabilities[0] = before & ~(DAC_OVERRIDE | DAC_READ_SEARCH)
    assert libc.capset(header, capabilities) == 0
    try:
        yield
    finally:
        capabilities[0] = before
        assert libc.capset(header, capabilities) == 0
