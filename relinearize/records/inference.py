"""The record of one `relinearize infer`: a JSON file from which tables and reports are made. Schema in dataclasses."""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from relinearize.errors import UserError
from relinearize.files import read_json, write_json

FORMAT, SCHEMA_VERSION = "relinearize-inference", 2
RECORD_FILE = "inference.json"
# Where the costs of layers come from.
MEASURED, SHARED = "measured", "measured by kind of operation, shared out among its layers as predicted"


@dataclass(frozen=True)
class KindCost:
    """One kind of operation (`engine.job.KINDS`) in one inference: of one party, time, what it sends, how often it is
    called. In a record `seconds` are of the slower party; `bytes` what both send; `messages` what the party sends that
    sends more.
    """

    seconds: float = 0.0
    bytes: int = 0
    messages: int = 0
    calls: int = 0

    def __add__(self, other: Self) -> Self:
        return KindCost(*(getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(KindCost)))

    def __sub__(self, other: Self) -> Self:
        return KindCost(*(getattr(self, entry.name) - getattr(other, entry.name) for entry in fields(KindCost)))


@dataclass(frozen=True)
class Phase:
    """Inferences of one phase, each of a batch of images. `seconds`: latency of each, from the images to the client's
    logits; the rest: of the median one. `seconds_per_image`: its share for an image, one over the throughput.
    `server_cpu_seconds`: processor time of all its threads; `server_bytes`: what it sends; `messages` as in
    KindCost."""

    seconds: tuple[float, ...]
    median_seconds: float
    seconds_per_image: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    server_bytes: int
    client_bytes: int
    messages: int
    kinds: dict[str, KindCost]

    @property
    def bytes(self) -> int:
        return self.server_bytes + self.client_bytes


@dataclass(frozen=True)
class LayerCost:
    """What a site, pool or linear layer costs in one inference, and in "rest" all that is in none of them.

    op: the bundle's operation. Of each image: relus, which are kept, of `positions`; comparisons of a max-pool.
    Predictions have fractions of bytes and messages.
    """

    name: str
    op: str
    relus: int
    positions: int
    comparisons: int
    seconds: float
    bytes: float
    messages: float


@dataclass(frozen=True)
class Model:
    """`predicted_seconds = loopback_seconds + sequential_messages * RTT/2 + bytes / rate` of one inference, beside what
    was measured."""

    loopback_seconds: float
    sequential_messages: int
    direction_bytes: int
    predicted_seconds: float
    measured_seconds: float


@dataclass(frozen=True)
class Fidelity:
    """The logits against those of plaintext float32: `max_error` is the largest difference of any, `logit_scale` the
    largest plaintext logit. Percent of the images; accuracies None where the bundle has no labels."""

    images: int
    max_error: float
    logit_scale: float
    agreement: float
    private_accuracy: float | None
    plaintext_accuracy: float | None

    @property
    def relative_error(self) -> float:
        return self.max_error / (self.logit_scale or 1.0)  # 0 where no logit of plaintext is finite


@dataclass(frozen=True)
class InferenceRecord:
    """`first`: the first inference, set-up of the protocol in it; `steady`: all that follow; `loopback`: some again
    with the delay proxy passing everything on at once, None if there is no proxy. `setup_seconds`: start of the
    processes, reading, connecting. `batch`: images of one inference; `fidelity` and `logits` are of images, without
    those that the last batch was filled up with. `bundle`: its `about`, SHA-256 of graph.json, path. `machine`: threads
    are those of each party; the load is the average of the minute before."""

    created: str
    bundle: dict[str, Any]
    relus: dict[str, int]  # site -> ReLUs kept
    positions: dict[str, int]  # site -> ReLUs in the all-ReLU network
    engine: str
    protocol: str
    security: str
    settings: dict[str, Any]
    network: dict[str, Any]
    compile_seconds: float
    setup_seconds: float
    first: Phase
    steady: Phase
    loopback: Phase | None
    model: Model
    fidelity: Fidelity
    logits: tuple[tuple[float, ...], ...]
    versions: dict[str, str]
    machine: dict[str, Any]
    # A record from before there was a choice has none of these.
    replacement: str = "identity"  # what stands at removed positions
    batch: int = 1
    layers: tuple[LayerCost, ...] = ()  # of the steady inference nearest to the median; older records: none
    layers_are: str = ""  # MEASURED or SHARED

    @property
    def pool_comparisons(self) -> int:
        """Of each image."""
        return sum(layer.comparisons for layer in self.layers)

    @property
    def live_sites(self) -> int:
        return sum(kept > 0 for kept in self.relus.values())

    def write(self, folder: Path) -> Path:
        """Written completely or not at all; replaces an older record."""
        content = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asdict(self)}
        path = folder / RECORD_FILE
        write_json(path, content)
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """UserError names the file and what is wrong with it."""
        try:
            content = read_json(path)
            if content.pop("format") != FORMAT or content.pop("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"not a {FORMAT} of version {SCHEMA_VERSION}")
            defaults = {entry.name: entry.default for entry in fields(cls)}
            content = {name: value for name, value in defaults.items() if value is not MISSING} | content
            if content.keys() != defaults.keys():
                raise ValueError(f"keys that are missing or unknown: {sorted(content.keys() ^ defaults.keys())}")
            for name in ("first", "steady", "loopback"):
                content[name] = content[name] and _phase(content[name])
            content |= {"model": Model(**content["model"]), "fidelity": Fidelity(**content["fidelity"])}
            content["layers"] = tuple(LayerCost(**layer) for layer in content["layers"])
            content["logits"] = tuple(tuple(row) for row in content["logits"])
            return cls(**content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is no record of an inference: {error}") from error


def _phase(content: dict[str, Any]) -> Phase:
    kinds = {"pool": KindCost()} | {name: KindCost(**values) for name, values in content["kinds"].items()}
    content = {"seconds_per_image": content["median_seconds"]} | content  # older records are of single images
    return Phase(**{**content, "seconds": tuple(content["seconds"]), "kinds": kinds})
