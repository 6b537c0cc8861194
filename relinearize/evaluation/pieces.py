"""The pieces of a robust evaluation that are done, in one file: a killed evaluation goes on behind the last of them.

A piece is one attack on one chunk of images, or one corruption at one severity. It is filed under the hash of all that
can change it (weights, images, settings, seed, device), so an evaluation with other options takes over what it shares
with this one and nothing else. After the evaluation the file stays: it holds each image's own result.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relinearize.errors import UserError
from relinearize.files import write_text
from relinearize.records.store import content_key

PIECES_FILE = "robustness_pieces.json"
PIECES_VERSION = 1


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
