"""Fetch an archive and put its folder in place: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from filelock import FileLock

from relinearize.errors import UserError
from relinearize.progress import WorkProgress

TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20  # bytes


def fetch_folder(url: str, root: Path, folder: str, md5: str | None) -> None:
    """Download `url` (.tar.gz or .zip) and leave its folder `folder` in `root`.

    md5: of the archive, None where none is published. Everything happens in a temporary folder inside `root` that is
    renamed at the end, so a cut connection or a kill leaves no half-written set. Two processes do it once. Raises
    UserError naming the URL.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder}.lock"):
            if (root / folder).exists():
                return
            with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as workplace:
                archive = Path(workplace) / "archive"
                download(url, archive, md5)
                unpacked = Path(workplace) / "unpacked"
                unpack(archive, unpacked, url)
                if not (unpacked / folder).is_dir():
                    raise UserError(f"{url}: the archive holds no folder {folder}")
                (unpacked / folder).rename(root / folder)
    except OSError as error:
        raise UserError(f"{root}: cannot write the downloaded set there ({error.strerror or error})") from error


def download(url: str, target: Path, md5: str | None) -> None:
    """Fetch one file with a progress bar; check that it is complete and, where an md5 is known, the right one."""
    digest = hashlib.md5(usedforsecurity=False)  # the only checksum that is published
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(target, "wb") as file:
            length = response.headers.get("Content-Length")
            expected = int(length) if length and length.isdigit() else None
            with WorkProgress(expected, unit="bytes", transient=True) as progress:
                progress.begins(url.rsplit("/", 1)[-1])
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    progress.done(len(chunk))
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}; fetch the set by hand") from error
    except urllib.error.URLError as error:
        raise UserError(f"{url}: cannot be reached ({error.reason}); fetch the set by hand") from error
    except (HTTPException, TimeoutError, ConnectionError) as error:
        raise UserError(f"{url}: the connection broke after {received} bytes ({error}); try again") from error
    except ValueError as error:
        raise UserError(f"{url}: not a valid URL ({error})") from error
    if expected is not None and received != expected:
        raise UserError(f"{url}: the download was cut short, {received} of {expected} bytes; try again")
    if md5 is not None and digest.hexdigest() != md5:
        raise UserError(f"{url}: the archive's md5 is {digest.hexdigest()}, expected {md5}; try again")


def unpack(archive: Path, target: Path, url: str) -> None:
    """Unpack a tar or zip file into the new folder `target`; members that would land outside are refused."""
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
                # A damaged header looks like the end of the archive; the stream's own checksum is tested at its end.
                while tar.fileobj.read(CHUNK):
                    pass
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bundle:
                for name in bundle.namelist():
                    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                        raise UserError(f"{url}: the archive holds {name!r}, which would be written outside its folder")
                bundle.extractall(target)
        else:
            raise UserError(f"{url}: what the server sent is neither a tar nor a zip archive")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{url}: the archive cannot be unpacked ({error})") from error
