"""The job that both parties read before they start, and each party's report on an inference.

All of it is public but `token`, by which the parties know each other: the folder is open to this user alone.

The starter writes `job.json` into a folder, for SPU the compiled program, too. A party prints one JSON line per event
on standard output and reads one JSON line per command from standard input, whose end means: leave at once.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from relinearize.records.inference import KindCost as Cost

JOB_FILE, PROGRAM_FILE = "job.json", "program.bin"
SERVER, CLIENT = 0, 1
PARTIES = ("server", "client")
IMAGES, LOGITS = "images", "logits"  # names of the program's first input and of its output
KINDS = ("relu", "pool", "linear", "gather", "other")  # of operations, whose costs are reported separately


@dataclass(frozen=True)
class Job:
    """`bundles[rank]`: the folder that party reads; the client's may lack the weights. `graph_sha256`: of the bundle's
    graph.json, which states the digests of the other files. `sockets[rank]`: of server and client as that party sees
    them, its own to listen at and its peer's to dial.

    `inputs`: name -> shape, the batch of images first, then the server's tensors, named by their nodes and roles.
    """

    bundles: tuple[str, str]
    graph_sha256: str
    engine: str
    protocol: str  # the engine's name of it
    fraction_bits: int
    local_truncation: bool
    timeout: int
    sockets: tuple[tuple[str, str], tuple[str, str]]
    inputs: dict[str, tuple[int, ...]]
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def write(self, folder: Path) -> None:
        (folder / JOB_FILE).unlink(missing_ok=True)
        (folder / JOB_FILE).touch(mode=0o600)
        (folder / JOB_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        content = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        content["inputs"] = {name: tuple(shape) for name, shape in content["inputs"].items()}
        return cls(**content)


def total(costs: Mapping[str, Cost]) -> Cost:
    """Of all kinds together."""
    return sum(costs.values(), Cost())


@dataclass(frozen=True)
class Inferred:
    """One party's report: `seconds` of the clock, `cpu_seconds` of all threads' processors, `costs` by kind, for the
    client the logits of each image of the batch, and the costs by the name of the node where the engine can tell."""

    seconds: float
    cpu_seconds: float
    costs: dict[str, Cost]
    logits: list[list[float]] | None
    layers: dict[str, Cost] = field(default_factory=dict)

    @classmethod
    def of_event(cls, event: dict) -> Self:
        """From the JSON line that a party prints."""
        costs, layers = ({name: Cost(**cost) for name, cost in event[table].items()} for table in ("costs", "layers"))
        return cls(event["seconds"], event["cpu_seconds"], costs, event["logits"], layers)


def log_file(folder: Path, rank: int) -> Path:
    return folder / f"{PARTIES[rank]}.log"
