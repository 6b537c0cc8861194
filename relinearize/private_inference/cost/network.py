"""The network between the two parties: the ones a user can choose, and what a message costs on them."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from relinearize.errors import UserError


@dataclass(frozen=True)
class Network:
    """A link that is alike in both directions. `mbps`: 10^6 bits per second each way; None: as fast as it goes."""

    name: str
    rtt_ms: float
    mbps: float | None

    @property
    def emulated(self) -> bool:
        """Whether the delay proxy stands between the parties."""
        return self.rtt_ms > 0 or self.mbps is not None

    @property
    def one_way_seconds(self) -> float:
        return self.rtt_ms / 2000

    @property
    def bytes_per_second(self) -> float:
        return math.inf if self.mbps is None else self.mbps * 1e6 / 8

    @property
    def text(self) -> str:
        """For people: "wan (40 ms RTT, 100 Mbit/s)"."""
        if self.name == "loopback":
            return self.name
        rate = "no rate limit" if self.mbps is None else f"{self.mbps:g} Mbit/s"
        return f"{self.name} ({self.rtt_ms:g} ms RTT, {rate})"

    def predicted_seconds(self, loopback_seconds: float, messages: float, direction_bytes: float) -> float:
        """`T_loopback + messages * RTT/2 + bytes / rate`.

        `messages` that wait for each other, counted one way; `direction_bytes` of the busier direction.
        """
        return loopback_seconds + messages * self.one_way_seconds + direction_bytes / self.bytes_per_second


NETWORKS = {
    "loopback": Network("loopback", 0, None),
    "lan": Network("lan", 1, 1000),
    "wan": Network("wan", 40, 100),
}


def read_network(asked: str | Mapping[str, float]) -> Network:
    """`loopback`, `lan`, `wan` or `{rtt_ms: 40, mbps: 100}`; in a text's braces `=` does as well as `:`."""
    if isinstance(asked, str) and asked in NETWORKS:
        return NETWORKS[asked]
    try:
        if isinstance(asked, str):
            text = re.sub(r"""["']?(rtt_ms|mbps)["']?\s*[:=]""", r'"\1":', asked)
            pairs = json.loads(text, object_pairs_hook=list)
        else:
            pairs = list(asked.items())
        values = {key: float(value) for key, value in pairs}
        if len(values) < len(pairs) or not set(values) <= {"rtt_ms", "mbps"}:
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"network={'null' if asked is None else asked}: must be {', '.join(NETWORKS)} or '{{rtt_ms:40,mbps:100}}'"
        ) from None
    rtt_ms, mbps = values.get("rtt_ms", 0.0), values.get("mbps")
    if not 0 <= rtt_ms <= 10_000 or (mbps is not None and not 0.1 <= mbps <= 1e6):
        raise UserError(f"network={asked}: rtt_ms must be 0 to 10000, mbps 0.1 to 1000000")
    name = "-".join([f"{rtt_ms:g}ms", *([] if mbps is None else [f"{mbps:g}mbps"])])
    return Network(name, rtt_ms, mbps)
