"""The pieces of a robust evaluation that are done, in one file: a killed evaluation goes on behind the last of them.

A piece is one attack on one chunk of images, or one corruption at one severity. It is filed under the hash of all that
can change it (weights, images, settings, seed, device), so an evaluation with other options takes over what it shares
with this one and nothing else. After the evaluation the file stays: it holds each image's own result.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relinearize.errors import UserError
from relinearize.files import write_text
from relinearize.progress import WorkProgress
from relinearize.records.store import content_key

PIECES_FILE = "robustness_pieces.json"
PIECES_VERSION = 1


Result = dict[str, Any]  # plain data with `seconds`; of images `right`, a character for each


@dataclass(frozen=True)
class Piece:
    """A part of the work that is done whole or not at all.

    group: what a person calls it ("PGD-20"); what: plain data that says what comes out, within one subject; units: its
    cost in forward passes of one image, roughly; compute: does it and returns plain data.
    """

    group: str
    what: dict[str, Any]
    units: float
    compute: Callable[[], Result]


@dataclass
class Part:
    """Pieces that one entry of the record is made of; `summary` makes it of their results, in order."""

    pieces: list[Piece]
    summary: Callable[[list[Result]], Any]
    results: list[Result] = field(default_factory=list)

    def work(self, filed: "Pieces", progress: WorkProgress, name: str) -> None:
        """Take what is filed and compute the rest; each result is on the disk before the next piece is begun."""
        self.results = []
        for group, members in groupby(self.pieces, key=lambda piece: piece.group):
            progress.begins(f"{name}: {group}")
            found = []
            for piece in members:
                result = filed.get(piece.what)
                if result is None:
                    result = piece.compute()
                    filed.put(piece.what, result)
                progress.done(piece.units)
                found.append(result)
            self.results += found
            if all("right" in result for result in found):
                percent, count = share(found)
                seconds = sum(result["seconds"] for result in found)
                progress.says(f"{name}: {group}  {percent:.2f} % of {count:,}  {seconds:.1f} s")

    @property
    def outcome(self) -> Any:
        return self.summary(self.results)


class Pieces:
    """The file at `path`, if there is one. `context`: what all pieces of this evaluation depend on (plain data)."""

    def __init__(self, path: Path, context: dict[str, Any]) -> None:
        self.path = path
        self.context = context
        self.done: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.done = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            version, pieces = content["version"], content["pieces"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self.path} is unreadable ({error}); delete it to evaluate from the start") from error
        return pieces if version == PIECES_VERSION else {}

    def key(self, what: dict[str, Any]) -> str:
        return content_key({"context": self.context, "what": what})

    def get(self, what: dict[str, Any]) -> Any:
        """The result of the piece `what` (plain data that names it among the pieces of one context), or None."""
        found = self.done.get(self.key(what))
        return None if found is None else found["result"]

    def put(self, what: dict[str, Any], result: dict[str, Any]) -> None:
        """File a result (plain data), on the disk when this returns."""
        self.done[self.key(what)] = {"what": what, "result": result}
        self._write()

    def _write(self) -> None:
        lines = [f"{json.dumps(key)}: {json.dumps(piece)}" for key, piece in self.done.items()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, f'{{"version": {PIECES_VERSION}, "pieces": {{\n' + ",\n".join(lines) + "\n}}\n")


def flags_to_text(flags: Tensor) -> str:
    """bool N -> N characters 0 or 1 (1: right), as readable as a file of results should be."""
    return "".join("1" if flag else "0" for flag in flags.tolist())


def text_to_flags(text: str) -> Tensor:
    """What `flags_to_text` made, as bool N."""
    return torch.tensor([character == "1" for character in text], dtype=torch.bool)


def share(results: list[Result]) -> tuple[float, int]:
    """(percent right, of how many images)."""
    flags = "".join(result["right"] for result in results)
    return 100.0 * flags.count("1") / len(flags), len(flags)


def piece_seed(*parts: object) -> int:
    """From 0 to 2^31 - 1, a function of the parts: pieces can be made in any order, by any process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
