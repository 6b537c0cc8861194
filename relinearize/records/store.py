"""Where finished stages live: each under a key of everything that can change it, made once, complete or absent.

STORE/teacher/resnet18-cifar10-s0-1f2e3d4c5b6a/     artifact.json (config, metrics), weights, mask
STORE/teacher/resnet18-cifar10-s0-1f2e3d4c5b6a.work/   unfinished; becomes the folder above by one rename
STORE/teacher/.resnet18-cifar10-s0-1f2e3d4c5b6a.lock   held by the process that works on it; the kernel frees it
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from relinearize.errors import UserError
from relinearize.files import (
    SHARED,
    UNFINISHED,
    check_readable,
    file_digest,
    look_anew,
    read_json,
    remove_temporaries,
    sync_folder,
    write_json,
)
from relinearize.progress import say

KEY_LENGTH = 12  # hex digits in folder names; the whole key stands in artifact.json
PUBLISHED: set[Path] = set()  # folders of artifacts, by this process
LONGEST_PREFIX = 200  # bytes of what stands before them; file systems take 255, and temporary names are longer
DESCRIPTION = "artifact.json"
MASK, WEIGHTS, CONFIG = "mask.safetensors", "weights.safetensors", "config.yaml"  # file names in artifacts and runs
CHECKPOINT = "last.ckpt"  # of a training
NO_RESULTS = (".ckpt", ".lock", ".tmp")


def content_key(content: Any) -> str:
    """sha256 (hex) of plain data, independent of the order of its keys."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(content: Any) -> str:
    """Plain data as JSON, the same for equal data: keys are sorted, and 8.0 is written as 8."""
    return json.dumps(plain_numbers(content), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain_numbers(content: Any) -> Any:
    """Plain data with integers for floats that are some, so that equal numbers are written alike."""
    if isinstance(content, float) and content.is_integer():
        return int(content)
    if isinstance(content, dict):
        return {key: plain_numbers(value) for key, value in content.items()}
    return [plain_numbers(value) for value in content] if isinstance(content, list | tuple) else content


def check_digest(path: Path, expected: str | None, remedy: str) -> None:
    """UserError unless `path` is a file with this sha256 (None: any)."""
    if not path.is_file():
        raise UserError(f"{path} is missing; {remedy}")
    check_readable(path)
    if expected is not None and file_digest(path) != expected:
        raise UserError(f"{path} is damaged or was changed (its sha256 is another); {remedy}")


@dataclass(frozen=True)
class Artifact:
    """The place of one finished piece of work, done or to be done."""

    path: Path
    key: str

    @property
    def complete(self) -> bool:
        return (self.path / DESCRIPTION).is_file()

    @property
    def work(self) -> Path:
        """The folder of the unfinished work (checkpoints); kept between attempts."""
        return self.path.with_name(self.path.name + UNFINISHED)

    def describe(self) -> dict[str, Any]:
        """The content of artifact.json. UserError if it cannot be read, was changed, or is another artifact's."""
        try:
            content = read_json(self.path / DESCRIPTION)
        except UserError as error:
            raise UserError(f"{error}; {self.remedy}") from error
        name = content.get("name", self.path.name)  # none: of an earlier version
        if name != self.path.name or self.key not in ("", content.get("key")):
            raise UserError(f"{self.path} holds {name}, which was moved there; {self.remedy}")
        return content

    def check_place(self) -> None:
        """UserError where something stands in its place that is no artifact: it would be lost."""
        # In this order: another process may publish it in between, by one rename.
        if (self.path.exists() or self.path.is_symlink()) and not self.complete:
            raise UserError(f"{self.path} is in the way: it holds no complete result; {self.remedy}")

    def file(self, name: str) -> Path:
        """The path of one of its files. UserError if that is not the file that was published."""
        check_digest(self.path / name, self.describe().get("files", {}).get(name), self.remedy)
        return self.path / name

    def check(self) -> None:
        """UserError if any file is missing, or not the one that was published."""
        content = self.describe()
        record = {content["record"]: None} if "record" in content else {}  # without its record a run is none
        for name, digest in (record | content.get("files", {})).items():
            check_digest(self.path / name, digest, self.remedy)

    @property
    def remedy(self) -> str:
        return f"delete {self.path} or give repair=true, and it is made again"

    def make(self, work: Callable[[], None]) -> None:
        """Do `work`, which publishes it, unless that is done, by another process perhaps that was waited for.

        The checkpoint then goes. Not before: a kill in between would cost the whole training.
        """
        if not self.complete:
            with self.lock():
                if not self.complete:
                    work()
        with contextlib.suppress(OSError):  # none is there; or the store can only be read
            (self.path / CHECKPOINT).unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the artifact alone. Another holder is waited for; if it dies, the kernel hands the lock on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), mode=SHARED)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process that works on {self.path.name}")
            lock.acquire(poll_interval=0.2)
        try:
            look_anew(self.path.parent, self.path)
            for folder in (self.path, self.work):  # a holder may have been killed
                remove_temporaries(folder)
            yield
        finally:
            lock.release()

    def publish(self, folder: Path, description: dict[str, Any]) -> None:
        """Make `folder` (beside the final path, same file system) the finished artifact, by one rename.

        artifact.json has the sha256 of each file, but not of those that go: checkpoints, and half-written ones.
        """
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        digests = {name: file_digest(path) for name, path in files.items() if path.suffix not in NO_RESULTS}
        digests.pop(DESCRIPTION, None)
        write_json(folder / DESCRIPTION, {"key": self.key, "name": self.path.name, **description, "files": digests})
        sync_folder(folder)
        try:
            os.replace(folder, self.path)
        except OSError:
            if not self.complete:
                raise
            shutil.rmtree(folder)  # another job made it meanwhile, where nodes do not share locks
        else:
            PUBLISHED.add(self.path)


def artifact_in(root: str, kind: str, prefix: str, content: dict[str, Any]) -> Artifact:
    """The artifact of `kind` (teacher, search, ...) below `root` that `content` is the identity of.

    `prefix`: for readers only.
    """
    key = content_key(content)
    if len(os.fsencode(prefix)) > LONGEST_PREFIX:
        raise UserError(
            f"{prefix}: a folder's name can have {LONGEST_PREFIX} bytes before its key; shorten method.name, "
            "backbone.name or dataset.name"
        )
    return Artifact(Path(root) / kind / f"{prefix}-{key[:KEY_LENGTH]}", key)
