"""What both parties are told before they start, all of it public; and how they speak with who started them.

The starter writes `job.json` into a folder, for SPU the compiled program, too. A party prints one JSON line per event
on standard output and reads one JSON line per command from standard input, whose end means: leave at once.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

JOB_FILE, PROGRAM_FILE = "job.json", "program.bin"
SERVER, CLIENT = 0, 1
PARTIES = ("server", "client")
IMAGE, LOGITS = "image", "logits"  # names of the program's first input and of its output


@dataclass(frozen=True)
class Job:
    """`bundles[rank]`: the folder that party reads; the client's may lack the weights. `addresses[rank]`: what that
    party calls the two of them, its own to listen at and its peer's to dial.

    `inputs`: name -> shape, the image first, then the server's tensors, named by their nodes and roles.
    """

    bundles: tuple[str, str]
    engine: str
    protocol: str  # the engine's name of it
    fraction_bits: int
    local_truncation: bool
    timeout: int
    addresses: tuple[tuple[str, str], tuple[str, str]]
    inputs: dict[str, tuple[int, ...]]
    classes: int

    def write(self, folder: Path) -> None:
        (folder / JOB_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        content = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        content["inputs"] = {name: tuple(shape) for name, shape in content["inputs"].items()}
        return cls(**content)


def log_file(folder: Path, rank: int) -> Path:
    return folder / f"{PARTIES[rank]}.log"
