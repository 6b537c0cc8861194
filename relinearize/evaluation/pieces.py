"""The pieces of a robust evaluation that are done, in one file: a killed evaluation goes on behind the last of them.

A piece is one attack on one chunk of images, or one corruption at one severity. It is filed under the hash of all that
can change it (weights, images, settings, seed, device), so an evaluation with other options takes over what it shares
with this one and nothing else. After the evaluation the file stays: it holds each image's own result.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from relinearize.errors import UserError
from relinearize.files import read_json, sealed, write_text
from relinearize.progress import WorkProgress
from relinearize.records.store import content_key

PIECES_FILE = "robustness_pieces.json"
PIECES_VERSION = 1


Result = dict[str, Any]  # plain data with `seconds`; of images `right`, a character for each


@dataclass(frozen=True)
class Piece:
    """Work that is done completely or not at all.

    group: what a person calls it ("PGD-20"); what: plain data that says what comes out, within one subject; units: its
    cost in forward passes of one image, roughly; compute: does it and returns plain data.
    """

    group: str
    what: dict[str, Any]
    units: float
    compute: Callable[[], Result]


class PiecesFile:
    """The file at `path`, if there is one. `context`: what all pieces of this evaluation depend on (plain data)."""

    def __init__(self, path: Path, context: dict[str, Any]) -> None:
        self.path, self.context = path, context
        self.done: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                content = read_json(path)
                version, pieces = content["version"], content["pieces"]
            except (UserError, TypeError, KeyError) as error:
                raise UserError(f"{path} is unreadable ({error}); delete it to evaluate from the start") from error
            self.done = pieces if version == PIECES_VERSION else {}

    def result_of(self, piece: Piece) -> Result:
        """What is filed of `piece`, or what it computes now, which is on the disk when this returns.

        Where the disk takes no files the evaluation goes on; its record's writing will complain.
        """
        key = content_key({"context": self.context, "what": piece.what})
        if key not in self.done:
            start = time.perf_counter()
            result = piece.compute()
            self.done[key] = {"what": piece.what, "result": {**result, "seconds": time.perf_counter() - start}}
            lines = [f"{json.dumps(name)}: {json.dumps(done)}" for name, done in self.done.items()]
            with contextlib.suppress(OSError):
                text = f'{{"version": {PIECES_VERSION}, "pieces": {{\n' + ",\n".join(lines) + "\n}}"
                write_text(self.path, sealed(text))
        return self.done[key]["result"]


@dataclass
class Part:
    """Pieces that one entry of the record is made of; `summary` makes it of their results, in order."""

    pieces: list[Piece]
    summary: Callable[[list[Result]], Any]
    results: list[Result] = field(default_factory=list)

    def work(self, file: PiecesFile, progress: WorkProgress, name: str) -> None:
        """Take what is filed and compute the rest; each result is on the disk before the next piece is begun."""
        self.results = []
        for group, members in groupby(self.pieces, key=lambda piece: piece.group):
            progress.begins(f"{name}: {group}")
            found = []
            for piece in members:
                found.append(file.result_of(piece))
                progress.done(piece.units)
            self.results += found
            if all("right" in result for result in found):
                percent, count = share(found)
                progress.says(f"{name}: {group}  {percent:.2f} % of {count:,}  {total_seconds(found):.1f} s")

    @property
    def outcome(self) -> Any:
        return self.summary(self.results)


def flags_to_text(flags: Tensor) -> str:
    """bool N -> N characters 0 or 1 (1: right), as readable as a file of results should be."""
    return "".join("1" if flag else "0" for flag in flags.tolist())


def share(results: Iterable[Result]) -> tuple[float, int]:
    """(percent right, of how many images)."""
    flags = "".join(result["right"] for result in results)
    return 100.0 * flags.count("1") / len(flags), len(flags)


def total_seconds(results: Iterable[Result]) -> float:
    return sum(result["seconds"] for result in results)
