"""The presets, a protocol's constants (presets.json) on a network, and what they predict from a workload's counts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import Network, read_network
from relinearize.private_inference.cost.workload import Layer, Workload
from relinearize.records.inference import KindCost, LayerCost

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


# What may stand at removed positions, and at a cost: counts of a Workload.
REPLACED_POSITIONS = ("affine", "quadratic")


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

    def unpriced(self, features: Mapping[str, int]) -> list[str]:
        """Of REPLACED_POSITIONS those that an inference has and no constant says the cost of; 0 is one."""
        online = (self.online.seconds, self.online.bytes, self.online.messages)
        priced = {name for terms in online for name in terms.constants}
        return [count for count in REPLACED_POSITIONS if features[count] and count not in priced]


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
    def terms(described: Mapping[str, Any]) -> Terms:
        return Terms({count: constant["value"] for count, constant in described.items()})

    def phase(described: Mapping[str, Any]) -> Phase:
        quantities = [terms(described.get(quantity, {})) for quantity in ("seconds", "bytes", "messages")]
        return Phase(*quantities, described.get("busier_direction", {"value": 0.5})["value"])

    online = phase(content["online"])
    offline = phase(content["offline"]) if "offline" in content else None
    storage = {party: terms(described) for party, described in content.get("storage", {}).items()}
    return Protocol(name, content["title"], online, offline, storage, on_network=bool(online.messages.constants))


# ---- constants times counts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PhaseCost:
    """Of one inference. `seconds`: T_loopback + messages * RTT/2 + bytes / rate.

    loopback_seconds: with both parties on one machine; bytes: both directions; messages: one-way, one after the other;
    rounds_seconds: what waiting for these takes.
    """

    seconds: float
    loopback_seconds: float
    bytes: float
    messages: float
    rounds_seconds: float = 0.0

    @property
    def bytes_seconds(self) -> float:
        """The part of `seconds` that the bytes take on the wire."""
        return max(0.0, self.seconds - self.loopback_seconds - self.rounds_seconds)


@dataclass(frozen=True)
class Prediction:
    """offline: None where not known. storage: bytes that client and server keep from offline to online.

    complete: false where the protocol's costs depend on the linear part, which is not known: they are the ReLUs' alone;
    and where it has no constants for what stands at removed positions.
    """

    preset: Preset
    online: PhaseCost
    offline: PhaseCost | None
    client_storage: float
    server_storage: float
    complete: bool


def predict(preset: Preset, workload: Workload) -> Prediction:
    """What one inference costs under `preset`."""
    protocol, network, features = preset.protocol, preset.network, workload.features()

    def cost(phase: Phase) -> PhaseCost:
        loopback, sent, messages = (terms.of(features) for terms in (phase.seconds, phase.bytes, phase.messages))
        if network is None:
            return PhaseCost(loopback, loopback, sent, messages)
        seconds = network.predicted_seconds(loopback, messages, sent * phase.busier_direction)
        return PhaseCost(seconds, loopback, sent, messages, messages * network.one_way_seconds)

    phases = [phase for phase in (protocol.online, protocol.offline) if phase is not None]
    terms = [one for phase in phases for one in (phase.seconds, phase.bytes, phase.messages)]
    stored = {party: terms.of(features) for party, terms in protocol.storage.items()}
    return Prediction(
        preset=preset,
        online=cost(protocol.online),
        offline=None if protocol.offline is None else cost(protocol.offline),
        client_storage=stored.get("client", 0.0),
        server_storage=stored.get("server", 0.0),
        complete=all(one.knows(features) for one in terms) and not protocol.unpriced(features),
    )


def predicted_layers(preset: Preset, layers: Sequence[Layer]) -> tuple[LayerCost, ...]:
    """What one inference takes online, layer by layer; together what `predict` says of the whole network."""
    return tuple(layer_cost(layer, predict(preset, layer.work).online) for layer in layers)


def layer_cost(layer: Layer, cost: PhaseCost | KindCost) -> LayerCost:
    """With the counts of `layer`."""
    counts = (layer.relus, layer.positions, layer.comparisons)
    return LayerCost(layer.name, layer.op, *counts, cost.seconds, cost.bytes, cost.messages)
