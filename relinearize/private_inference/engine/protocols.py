"""The protocols of two parties that a network is run under, what each promises, and which engine runs it."""

from dataclasses import dataclass

from relinearize.private_inference.cost.presets import protocols
from relinearize.private_inference.cost.workload import Workload


@dataclass(frozen=True)
class Protocol:
    """`called`: its name in the engine; `counted`: whether the messages that a party sends are those that wait for each
    other."""

    name: str
    engine: str
    called: str
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
        "cheetah",
        "spu",
        "CHEETAH",
        "two parties, semi-honest, nobody else: homomorphic encryption and OT",
        counted=False,
    ),
    "semi2k": Protocol(
        "semi2k",
        "spu",
        "SEMI2K",
        "the online phase alone: the server deals the random numbers, so it could learn the image",
        counted=True,
    ),
    "tfp": Protocol(
        "tfp",
        "crypten",
        "TFP",
        "the online phase alone: the server deals the random numbers, so it could learn the image",
        counted=True,
    ),
}
