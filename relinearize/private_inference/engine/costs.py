"""What an inference costs one party: time, bytes and messages by kind of operation."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

KINDS = ("relu", "linear", "gather", "other")


@dataclass(frozen=True)
class Cost:
    """What one party does for one kind of operation in one inference: time, what it sends, how often it is called."""

    seconds: float = 0.0
    bytes: int = 0
    messages: int = 0
    calls: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(Cost)))


def sent_bytes(costs: Mapping[str, Cost]) -> int:
    return sum(cost.bytes for cost in costs.values())


def sent_messages(costs: Mapping[str, Cost]) -> int:
    return sum(cost.messages for cost in costs.values())
