"""The protocols of two parties that a network is run under, and what each promises."""

from dataclasses import dataclass

from relinearize.cost.presets import protocols
from relinearize.cost.workload import Workload


@dataclass(frozen=True)
class Protocol:
    """`counted`: whether the messages that a party sends are those that wait for each other."""

    name: str
    spu_name: str
    security: str
    counted: bool

    def sequential_messages(self, sent: int, workload: Workload) -> int:
        """Messages that wait for each other in one inference. `sent`: messages of the party that sends more.

        Where transfers run side by side, what the cost model's preset says, which comes from wall time against
        injected delay (`scripts/fit_cost.py`).
        """
        if self.counted:
            return sent
        return round(protocols()[self.name].online.messages.of(workload.features()))


PROTOCOLS = {
    "cheetah": Protocol(
        "cheetah", "CHEETAH", "two parties, semi-honest, nobody else: homomorphic encryption and OT", counted=False
    ),
    "semi2k": Protocol(
        "semi2k",
        "SEMI2K",
        "the online phase alone: the server deals the random numbers, so it could learn the image",
        counted=True,
    ),
}
