"""Files written as a whole or not at all, and their digests.

A JSON file ends with the sha256 of what stands before it, and is read only if that still fits.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relinearize.errors import UserError

SHARED = 0o666  # mode of lock files, which hold nothing: whoever shares a folder must be able to take them
CONTROL = re.compile(r"\\u00[0189]|\\u007f|\x7f", re.IGNORECASE)  # as JSON writes them; but not of lines and tabs
DAMAGED = ".damaged"  # what a repair puts behind the name of a run's folder
UNFINISHED = ".work"  # behind the name of a folder that is being made
DIGEST = "sha256"
SEAL = f',\n "{DIGEST}": '
TEMPORARY = ".*.tmp"  # half-written files, for glob and match
HERE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]  # in the names of this machine's
ABANDONED = 3600.0  # seconds after which nobody is still writing one

logger = logging.getLogger(__name__)


def look_anew(*folders: Path) -> None:
    """Make a client of NFS that has seen no file in these folders look again."""
    for folder in folders:
        with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".tmp"):
            pass


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`; it replaces `path` when the block ends, and is removed if the block fails.

    The folder is created where it is missing. The file gets the mode that the user's umask gives, whatever its writer
    chose (safetensors' writer gives 0600, which would hide results from colleagues on a shared disk). An OSError names
    `path`, which the user knows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{HERE}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and str(error.filename) in ("None", str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove the half-written files below a `folder` that the caller holds alone, of processes that were killed.

    Alone on this machine: another's may be writing still, where nodes do not share locks.
    """
    for leftover in folder.rglob(TEMPORARY):
        with contextlib.suppress(FileNotFoundError):
            if leftover.match(f".*.{HERE}.*.tmp") or time.time() - leftover.stat().st_mtime > ABANDONED:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a complete file or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a complete UTF-8 file or nothing. Names of files in it keep their bytes, whatever these are."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a complete JSON file or nothing."""
    write_text(path, sealed(json.dumps(content, indent=1, allow_nan=False)))


def sealed(text: str) -> str:
    """JSON text of an object, with its sha256 (of all that stands before) as a last entry."""
    return _with_digest(text.rstrip().removesuffix("}").rstrip())


def _with_digest(body: str) -> str:
    return f'{body}{SEAL}"{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def read_json(path: Path) -> Any:
    """The content of a JSON file, without its digest.

    UserError, one line with the path, where it cannot be read, is no JSON, or was changed since it was written. A file
    without a digest is taken as it is.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file")  # a pipe or a device would never end
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if CONTROL.search(text):
        raise UserError(f"{path}: its texts have control characters, which could command a terminal")
    digest = content.pop(DIGEST, None) if isinstance(content, dict) else None
    if digest is not None and text != _with_digest(text.rpartition(SEAL)[0]):
        raise UserError(f"{path}: was changed since it was written (its {DIGEST} is another)")
    return content


def sync_folder(folder: Path) -> None:
    """fsync every complete file in `folder` and the folder itself, so that a rename of it survives a power cut."""
    for path in [*sorted(path for path in folder.rglob("*") if not path.match(TEMPORARY)), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_readable(path: Path) -> None:
    """UserError, one line with the path and the reason, where `path` cannot be opened.

    safetensors says of every file that it cannot open that it does not exist.
    """
    try:
        open(path, "rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def files_below(folder: Path, name: str) -> list[Path]:
    """Everything called `name` below `folder`, sorted, but not what is unfinished or was put aside by a repair.

    Links are followed, to each folder once. One warning for each folder that cannot be listed.
    """
    found, seen = [], set()
    walk = os.walk(folder, onerror=lambda error: _warn_once(error.filename, error.strerror), followlinks=True)
    for place, folders, files in walk:
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place) / name] * (name in (*folders, *files))
        folders[:] = [one for one in folders if not one.endswith((DAMAGED, UNFINISHED))]
        folders.sort(key=lambda one: os.path.islink(os.path.join(place, one)))  # a link gives way to what it leads to
    return sorted(found)


def move_into(folder: Path, target: Path, replace: bool = False) -> None:
    """Move what `target` lacks from `folder` there; `replace`: files that both have, too, but no links."""
    for entry in folder.iterdir():
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            move_into(entry, place, replace)
        elif not (replace and entry.is_symlink()) and (replace or not place.exists()):
            shutil.move(entry, place)


@functools.cache
def _warn_once(path: str, reason: str) -> None:
    logger.warning("skipped: %s: cannot be read (%s)", path, reason)


def user_cache() -> Path:
    """relinearize/ in $XDG_CACHE_HOME or ~/.cache; without a home folder, the user's among temporary files."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return caches / "relinearize" if caches.is_absolute() else temporary_folder()


def temporary_folder() -> Path:
    """Of this user, among all temporary files."""
    return Path(tempfile.gettempdir()) / f"relinearize-{os.getuid()}"


def own_folder(folder: Path) -> bool:
    """Make `folder`, closed to others, if it is missing. Whether it can be written and is this user's."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid()
    except OSError:
        return False
