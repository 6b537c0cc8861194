"""The protocols of two parties that a network is run under, and what each promises."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """`messages_per_site`, `messages_per_layer`: one-way messages that wait for each other, in a site that keeps any
    ReLU and in a linear layer; None where the engine's own count of messages is already that."""

    name: str
    spu_name: str
    security: str
    messages_per_site: int | None = None
    messages_per_layer: int | None = None

    def sequential_messages(self, sent: int, live_sites: int, layers: int) -> int:
        """Messages that wait for each other in one inference. `sent`: messages of the party that sends more."""
        if self.messages_per_site is None or self.messages_per_layer is None:
            return sent
        return self.messages_per_site * live_sites + self.messages_per_layer * layers


PROTOCOLS = {
    # Cheetah's transfers run side by side, so that messages sent are not messages waited for. The two numbers come
    # from wall time against injected delay (docs/private_inference.md).
    "cheetah": Protocol(
        "cheetah", "CHEETAH", "two parties, semi-honest, nobody else: homomorphic encryption and OT", 20, 4
    ),
    "semi2k": Protocol(
        "semi2k", "SEMI2K", "the online phase alone: the server deals the random numbers, so it could learn the image"
    ),
}
