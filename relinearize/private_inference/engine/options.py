"""What `relinearize infer` is asked for. All of it is checked before anything is compiled or started."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import Network, read_network
from relinearize.private_inference.engine.protocols import ENGINES, Engine, Protocol, find_protocol

SEMI2K_ONLY = ("kn2row", "local_truncation")


@dataclass(frozen=True)
class InferOptions:
    """conf/infer.yaml, which explains the keys. UserError for values that are wrong whatever the bundle is.

    One Python hands them to another as JSON: an engine's environment has no Hydra, so the defaults stand here, too.
    """

    bundle: Path | None = None
    engine: str | None = None
    protocol: str | None = None
    n_images: int = 5
    network: str = "loopback"
    output: Path | None = None
    kn2row: bool = False
    local_truncation: bool = False
    timeout: int = 600
    python: Path | None = None

    def __post_init__(self) -> None:
        for key in ("bundle", "output", "python"):
            value = getattr(self, key)
            object.__setattr__(self, key, Path(value) if value else None)
        if self.bundle is None:
            raise UserError("infer needs bundle=FOLDER, what `relinearize export run=FOLDER` wrote")
        for key, least in (("n_images", 1), ("timeout", 10)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise UserError(f"{key}={value}: must be an integer >= {least}")
        for key in SEMI2K_ONLY:
            value = getattr(self, key)
            if type(value) is not bool:
                raise UserError(f"{key}={value}: must be true or false")
            if value and self.chosen_protocol.name != "semi2k":
                raise UserError(
                    f"{key}=true goes with protocol=semi2k only; {self.chosen_protocol.name} has no use for it"
                )
        self.folder  # noqa: B018  (checks protocol and network)

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` gave in another environment; the keys that are left out have their defaults."""
        return cls(**json.loads(text))

    @property
    def chosen_protocol(self) -> Protocol:
        return find_protocol(self.engine, self.protocol)

    @property
    def chosen_engine(self) -> Engine:
        return ENGINES[self.chosen_protocol.engine]

    @property
    def link(self) -> Network:
        """The network between the two parties."""
        return read_network(self.network)

    @property
    def folder(self) -> Path:
        """Where record and logs go; what changes the numbers is in its name."""
        if self.output:
            return self.output
        flags = [key for key in SEMI2K_ONLY if getattr(self, key)]
        name = "-".join([self.chosen_protocol.name, self.link.name, *flags])
        return self.bundle.with_name(f"{self.bundle.name}-infer") / name
