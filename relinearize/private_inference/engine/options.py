"""What `infer` was asked, and what that means. All of it is checked before anything is compiled or started."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import Network, read_network
from relinearize.private_inference.engine.engines import ENGINES
from relinearize.private_inference.engine.protocols import PROTOCOLS, Protocol


@dataclass(frozen=True)
class Request:
    """The keys of conf/infer.yaml, which says what they mean; plain values, which one Python hands to another as JSON.

    The environment of an engine has no Hydra, so the defaults stand here, too.
    """

    bundle: str
    engine: str | None = None
    protocol: str | None = None
    n_images: int = 5
    network: str = "loopback"
    output: str | None = None
    kn2row: bool = False
    local_truncation: bool = False
    timeout: int = 600
    python: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Options:
    """A request with its protocol, engine and network looked up; `output` is where record and logs go."""

    bundle: Path
    engine: str
    protocol: Protocol
    n_images: int
    network: Network
    output: Path
    kn2row: bool
    local_truncation: bool
    timeout: int
    python: str | None


def resolve(request: Request) -> Options:
    """UserError for what cannot be; whether the bundle can be read is found out later."""
    protocol = read_protocol(request.engine, request.protocol)
    flags = {"kn2row": request.kn2row, "local_truncation": request.local_truncation}
    for key, wanted in flags.items():
        if wanted and protocol.name != "semi2k":
            raise UserError(f"{key}=true goes with protocol=semi2k only; {protocol.name} has no use for it")
    network = read_network(request.network)
    bundle = Path(request.bundle)
    name = "-".join([protocol.name, network.name, *(key for key, wanted in flags.items() if wanted)])
    return Options(
        bundle=bundle,
        engine=protocol.engine,
        protocol=protocol,
        n_images=request.n_images,
        network=network,
        output=Path(request.output) if request.output else bundle.with_name(f"{bundle.name}-infer") / name,
        timeout=request.timeout,
        python=request.python,
        **flags,
    )


def read_protocol(engine: str | None, name: str | None) -> Protocol:
    """Each of the two may be left out: a protocol has one engine, and an engine's first protocol is its default."""
    if engine and engine not in ENGINES:
        raise UserError(f"engine={engine}: valid: {', '.join(ENGINES)}")
    valid = [one for one, protocol in PROTOCOLS.items() if engine in (None, protocol.engine)]
    if name and name not in valid:
        raise UserError(f"protocol={name}: valid{f' with engine={engine}' if engine else ''}: {', '.join(valid)}")
    return PROTOCOLS[name or valid[0]]
