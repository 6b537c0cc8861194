"""winograd.c as a library: compiled once per source, compiler and processor, then loaded from the user's cache."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

from relinearize.errors import UserError
from relinearize.files import own_folder, replacing, temporary_folder, user_cache
from relinearize.machine import cpu_info

SOURCE = Path(__file__).with_name("winograd.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
SECONDS = 120  # for the compiler, which needs about 2


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled functions. UserError, in one line, where that is not possible here.

    Threads are those of torch: the library asks for an OpenMP by the name under which torch has already loaded its own.
    """
    compiler = find_compiler()
    path = cache_folder() / f"winograd-{fingerprint(compiler)}.so"
    if not path.is_file():
        compile_into(path, compiler)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be loaded ({error}); remove it, or give trainer.convolutions=torch") from None


def find_compiler() -> str:
    """Path of the C compiler: $CC, else cc, gcc or clang."""
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        if path := shutil.which(name):
            return path
    raise UserError(
        "trainer.convolutions=winograd needs a C compiler and found none (cc, gcc, clang); "
        "install one, name it in CC, or give trainer.convolutions=torch"
    )


def cache_folder() -> Path:
    """The user's cache folder; where that cannot be written, one among temporary files.

    A library is code: a folder that others own is not ours to load from.
    """
    for folder in (user_cache(), temporary_folder()):
        if own_folder(folder):
            return folder
    raise UserError(f"neither {user_cache()} nor {folder} can be written; give trainer.convolutions=torch")


def fingerprint(compiler: str) -> str:
    """Of all that the library follows from; a home folder may be shared by machines with different processors."""
    file = Path(compiler).resolve()
    about = file.stat()
    words = [*FLAGS, str(file), str(about.st_size), str(about.st_mtime_ns), processor()]
    return hashlib.sha256(b"\0".join([SOURCE.read_bytes(), *map(str.encode, words)])).hexdigest()[:16]


def processor() -> str:
    """What `-march=native` goes by: the instructions that the processor knows."""
    return cpu_info("flags", "Features") or platform.processor() + platform.machine()


def compile_into(path: Path, compiler: str) -> None:
    """Several processes may do so at once: each writes a file of its own, and one rename makes it the library."""
    try:
        with replacing(path) as made:
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            if done.returncode != 0:
                raise OSError((done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[0])
    except (OSError, subprocess.TimeoutExpired) as error:  # also a full disk, a program that does not start
        raise UserError(
            f"trainer.convolutions=winograd: {compiler} cannot compile {SOURCE.name} into {path.parent} ({error}); "
            "name another compiler in CC, or give trainer.convolutions=torch"
        ) from error
