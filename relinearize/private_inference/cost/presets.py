"""The presets: a protocol's constants (presets.json) on a network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import Network, read_network

FILE = "presets.json"
SHOWN_ON = ("lan", "wan")  # where a preset is shown if no network is asked for
# In every record and in pareto.csv: the axis of the papers' tables, and the wide-area network, where rounds and bytes
# count.
RECORDED = ("delphi_compute", "delphi_wan", "cheetah_wan", "semi2k_wan")
# What a report draws unless told otherwise: what `relinearize infer` runs by default, two parties and nothing offline.
USUAL_PROTOCOL = "cheetah"


@dataclass(frozen=True)
class Terms:
    """A quantity of an inference: the sum of constant times count, by the name of the count in `Workload.features`."""

    constants: Mapping[str, float]

    def of(self, features: Mapping[str, int]) -> float:
        """Terms whose counts are not known are left out."""
        return sum(value * features[name] for name, value in self.constants.items() if name in features)

    def knows(self, features: Mapping[str, int]) -> bool:
        return set(self.constants) <= set(features)


@dataclass(frozen=True)
class Phase:
    """seconds: of both parties on one machine; bytes: in both directions; messages: one-way, one after the other.

    busier_direction: the share of the bytes that goes the busier way.
    """

    seconds: Terms
    bytes: Terms
    messages: Terms
    busier_direction: float


@dataclass(frozen=True)
class Protocol:
    """offline: None where nobody measured it. on_network: whether its time depends on the network at all."""

    name: str
    title: str
    online: Phase
    offline: Phase | None
    storage: Mapping[str, Terms]  # "client", "server": bytes that are kept from offline to online
    on_network: bool


@dataclass(frozen=True)
class Preset:
    """`network` is None for computation alone."""

    name: str
    protocol: Protocol
    network: Network | None


@cache
def protocols() -> dict[str, Protocol]:
    """All protocols of presets.json, in its order."""
    text = resources.files("relinearize.private_inference.cost").joinpath(FILE).read_text(encoding="utf-8")
    return protocols_of(json.loads(text))


def protocols_of(content: Mapping[str, Any]) -> dict[str, Protocol]:
    """The protocols of a presets.json that was read."""
    return {name: _protocol(name, described) for name, described in content["protocols"].items()}


def preset_names() -> list[str]:
    """delphi_compute, and the others with and without a network in their name."""
    return [
        name
        for protocol in protocols().values()
        for name in ([protocol.name] + [f"{protocol.name}_{network}" for network in SHOWN_ON if protocol.on_network])
    ]


def find_presets(name: str | None, network: str | None) -> list[Preset]:
    """The presets that `name` (None: all) and `network` (None: lan and wan) mean.

    UserError for unknown names, and where a name contains one network and `network` is another.
    """
    if name is not None and name not in preset_names():
        raise UserError(f"preset={name} is unknown; valid: {', '.join(preset_names())}")
    wanted, _, named = (name or "", "", "") if not name or name in protocols() else name.rpartition("_")
    if named and network not in (None, named):
        raise UserError(f"preset={name} is on {named}, not on network={network}; give preset={wanted}")
    found = []
    for protocol in protocols().values():
        if wanted not in ("", protocol.name):
            continue
        if not protocol.on_network:
            if wanted and network is not None:
                raise UserError(f"preset={name} is computation alone and knows no network={network}; leave one out")
            found.append(Preset(protocol.name, protocol, None))
            continue
        for link in map(read_network, [named or network] if named or network else SHOWN_ON):
            found.append(Preset(f"{protocol.name}_{link.name}", protocol, link))
    return found


def recorded_presets() -> list[Preset]:
    """The presets of RECORDED."""
    return [preset for name in RECORDED for preset in find_presets(name, None)]


def one_preset(name: str | None = None, network: str | None = None) -> Preset:
    """The preset that `preset=` (None: Cheetah) and `network=` (None: that of the name, else the WAN) mean.

    UserError for unknown names, and where the two contradict each other.
    """
    return find_presets(name or USUAL_PROTOCOL, network)[-1]


def _protocol(name: str, content: dict[str, Any]) -> Protocol:
    online = _phase(content["online"])
    return Protocol(
        name=name,
        title=content["title"],
        online=online,
        offline=_phase(content["offline"]) if "offline" in content else None,
        storage={party: _terms(terms) for party, terms in content.get("storage", {}).items()},
        on_network=bool(online.messages.constants),
    )


def _phase(content: dict[str, Any]) -> Phase:
    terms = [_terms(content.get(quantity, {})) for quantity in ("seconds", "bytes", "messages")]
    return Phase(*terms, busier_direction=content.get("busier_direction", {"value": 0.5})["value"])


def _terms(content: dict[str, Any]) -> Terms:
    return Terms({name: constant["value"] for name, constant in content.items()})
