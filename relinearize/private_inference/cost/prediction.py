"""A preset's constants times a workload's counts."""

from dataclasses import dataclass

from relinearize.private_inference.cost.presets import Phase, Preset
from relinearize.private_inference.cost.workload import Workload


@dataclass(frozen=True)
class PhaseCost:
    """Of one inference of one image. `seconds`: T_loopback + messages * RTT/2 + bytes / rate.

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

    complete: false where the protocol's costs depend on the linear part, which is not known: they are the ReLUs' alone.
    """

    preset: Preset
    online: PhaseCost
    offline: PhaseCost | None
    client_storage: float
    server_storage: float
    complete: bool


def predict(preset: Preset, workload: Workload) -> Prediction:
    """What one inference of one image costs under `preset`."""
    protocol, features = preset.protocol, workload.features()
    phases = [phase for phase in (protocol.online, protocol.offline) if phase is not None]
    terms = [one for phase in phases for one in (phase.seconds, phase.bytes, phase.messages)]
    stored = {party: terms.of(features) for party, terms in protocol.storage.items()}
    return Prediction(
        preset=preset,
        online=_cost(protocol.online, preset, features),
        offline=None if protocol.offline is None else _cost(protocol.offline, preset, features),
        client_storage=stored.get("client", 0.0),
        server_storage=stored.get("server", 0.0),
        complete=all(one.knows(features) for one in terms),
    )


def _cost(phase: Phase, preset: Preset, features: dict[str, int]) -> PhaseCost:
    loopback, sent, messages = (terms.of(features) for terms in (phase.seconds, phase.bytes, phase.messages))
    if preset.network is None:
        return PhaseCost(loopback, loopback, sent, messages)
    seconds = preset.network.predicted_seconds(loopback, messages, sent * phase.busier_direction)
    return PhaseCost(seconds, loopback, sent, messages, messages * preset.network.one_way_seconds)
