"""What `relinearize infer` is asked for, checked before anything is compiled; engines, and what protocols promise."""

import json
import os
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from relinearize.errors import UserError, check_number, check_path
from relinearize.machine import installed
from relinearize.private_inference.bundle.fixed_point import SPU_BITS
from relinearize.private_inference.cost.network import Network, read_network
from relinearize.private_inference.cost.presets import protocols
from relinearize.private_inference.cost.workload import Workload

SEMI2K_ONLY = ("kn2row", "local_truncation")
USUAL_IMAGES = 5


@dataclass(frozen=True)
class Engine:
    """`package`: what an environment that has the engine can import; `environment`: the Python of the one that the
    Makefile makes, if the engine needs one of its own; `versions`: distributions whose versions a record names."""

    title: str
    package: str
    environment: Path | None
    remedy: str
    fraction_bits: int
    versions: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def here(self) -> bool:
        """Whether this environment has it."""
        return installed(self.package)

    def python(self, asked: Path | None = None) -> Path:
        """Another Python that should have it, `asked` or the Makefile's. UserError says how to get one."""
        repository = Path(__file__).parents[3]
        made = [] if self.environment is None else [Path.cwd() / self.environment, repository / self.environment]
        places = [asked] if asked else made
        found = next((place for place in places if os.access(place, os.X_OK)), None)
        if found is None:
            missing = f"there is none at {places[0]}" if places else "this environment has none"
            raise UserError(f"infer needs {self.title}, and {missing}; {self.remedy}, python=FILE names another")
        return found


ENGINES = {
    "spu": Engine(
        title="SecretFlow SPU in an environment of its own",
        package="spu",
        environment=Path(".venv-pi/bin/python"),
        remedy="`make pi` makes it (Linux on x86-64, Python 3.11)",
        fraction_bits=SPU_BITS,
        versions=("spu", "jax", "numpy"),
    ),
    "crypten": Engine(
        title="CrypTen",
        package="crypten",
        environment=None,
        remedy="`make crypten` puts it into .venv; elsewhere `pip install --no-deps crypten==0.4.1`, onnx and pyyaml",
        fraction_bits=16,
        versions=("crypten", "torch", "numpy"),
        settings={"rounding": "local"},  # always; wrong with a tiny probability per value
    ),
}


@dataclass(frozen=True)
class Protocol:
    """`counted`: whether the messages that a party sends are those that wait for each other."""

    name: str
    engine: str
    security: str
    counted: bool

    def sequential_messages(self, sent: int, workload: Workload) -> int:
        """Messages that wait for each other in one inference. `sent`: messages of the party that sends more.

        Where transfers run side by side, the cost model's count, which comes from wall time against injected delay
        (`scripts/fit_cost.py`).
        """
        if self.counted:
            return sent
        return round(protocols()[self.name].online.messages.of(workload.features()))


_DEALER = "the online phase alone: the server deals the random numbers, so it could learn the image"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("cheetah", "spu", "two parties, semi-honest, nobody else: homomorphic encryption and OT", False),
        Protocol("semi2k", "spu", _DEALER, True),
        Protocol("tfp", "crypten", _DEALER, True),
    )
}


@dataclass(frozen=True)
class InferOptions:
    """conf/infer.yaml, which explains the keys. UserError for values that are wrong whatever the bundle is.

    One Python hands them to another as JSON: an engine's environment has no Hydra, so the defaults stand here, too.
    """

    bundle: Path | None = None
    engine: str | None = None
    protocol: str | None = None
    n_images: int | None = None
    batch: int = 1
    network: str = "loopback"
    output: Path | None = None
    kn2row: bool = False
    local_truncation: bool = False
    timeout: int = 600
    layers: bool = False
    python: Path | None = None

    def __post_init__(self) -> None:
        for key in ("bundle", "output", "python"):
            value = getattr(self, key)
            object.__setattr__(self, key, check_path(key, value) if value else None)
        if self.bundle is None:
            raise UserError("infer needs bundle=FOLDER, what `relinearize export run=FOLDER` wrote")
        check_number("n_images", self.n_images, ">= 1", integer=True, optional=True)
        check_number("batch", self.batch, ">= 1", integer=True)
        check_number("timeout", self.timeout, ">= 10", integer=True)
        for key in (*SEMI2K_ONLY, "layers"):
            value = getattr(self, key)
            if type(value) is not bool:
                raise UserError(f"{key}={value}: must be true or false")
            if key in SEMI2K_ONLY and value and self.chosen_protocol.name != "semi2k":
                raise UserError(
                    f"{key}=true goes with protocol=semi2k only; {self.chosen_protocol.name} has no use for it"
                )
        self.folder  # noqa: B018  (checks protocol and network)

    def images(self, there: int) -> int:
        """How many of the `there` images of a bundle are inferred. UserError if that is more than there are."""
        if self.n_images is None:
            return min(there, max(USUAL_IMAGES, self.batch))
        if self.n_images > there:
            raise UserError(
                f"n_images={self.n_images}: the bundle has {there} reference images (export images=N gives N)"
            )
        return self.n_images

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` gave in another environment; the keys that are left out have their defaults.

        UserError for what is no JSON, and for keys that are unknown here.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"{text} is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f'{text} must hold keys of `relinearize infer`, as \'{{"bundle": "FOLDER"}}\' does')
        names = [entry.name for entry in fields(cls)]
        for key in values.keys() - names:
            raise UserError(
                f"{key} is unknown; valid: {', '.join(names)}. If `relinearize infer` gave it, {sys.executable} has "
                "another version of relinearize: install the same one there"
            )
        return cls(**values)

    @property
    def chosen_protocol(self) -> Protocol:
        """Of engine and protocol each may be left out: a protocol has one engine, whose first one is its default."""
        engine, name = self.engine, self.protocol
        if engine and engine not in list(ENGINES):
            raise UserError(f"engine={engine}: valid: {', '.join(ENGINES)}")
        valid = [one for one, protocol in PROTOCOLS.items() if engine in (None, protocol.engine)]
        if name and name not in valid:
            raise UserError(f"protocol={name}: valid{f' with engine={engine}' if engine else ''}: {', '.join(valid)}")
        return PROTOCOLS[name or valid[0]]

    @property
    def chosen_engine(self) -> Engine:
        return ENGINES[self.chosen_protocol.engine]

    @property
    def link(self) -> Network:
        """The network between the two parties."""
        return read_network(self.network)

    @property
    def threads(self) -> str:
        """Of each party: two share the cores of one machine."""
        return os.environ.get("OMP_NUM_THREADS") or "1"

    @property
    def folder(self) -> Path:
        """Where record and logs go; what changes the numbers is in its name."""
        if self.output:
            return self.output
        flags = [f"batch{self.batch}"] if self.batch > 1 else []
        flags += [key for key in SEMI2K_ONLY if getattr(self, key)]
        flags += [f"threads{self.threads}"] if self.threads != "1" else []
        name = "-".join([self.chosen_protocol.name, self.link.name, *flags])
        bundle = self.bundle.resolve() if self.bundle.name in ("", "..") else self.bundle
        return bundle.with_name(f"{bundle.name}-infer") / name
