"""From what the two parties say of their inferences to the numbers of the record."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from relinearize.private_inference.bundle.bundle import Bundle
from relinearize.private_inference.cost.network import Network
from relinearize.private_inference.cost.workload import bundle_workload
from relinearize.private_inference.engine.costs import KINDS, Cost, sent_bytes, sent_messages
from relinearize.private_inference.engine.job import CLIENT, SERVER
from relinearize.private_inference.engine.protocols import Protocol
from relinearize.records.inference import Answers, KindCost, Model, Phase

Inferred = tuple[dict[str, Any], dict[str, Any]]  # what server and client say of one inference


def summary(inferred: Sequence[Inferred]) -> Phase:
    """Latency is the client's: it ends when the client knows the logits."""
    seconds = [client["seconds"] for _, client in inferred]
    middle = min(inferred, key=lambda both: abs(both[CLIENT]["seconds"] - median(seconds)))
    costs = [{kind: Cost(**party["costs"][kind]) for kind in KINDS} for party in middle]
    kinds = {
        kind: KindCost(
            seconds=max(party[kind].seconds for party in costs),
            bytes=sum(party[kind].bytes for party in costs),
            messages=max(party[kind].messages for party in costs),
            calls=costs[SERVER][kind].calls,
        )
        for kind in KINDS
    }
    return Phase(
        seconds=tuple(seconds),
        median_seconds=median(seconds),
        server_cpu_seconds=middle[SERVER]["cpu_seconds"],
        client_cpu_seconds=middle[CLIENT]["cpu_seconds"],
        server_bytes=sent_bytes(costs[SERVER]),
        client_bytes=sent_bytes(costs[CLIENT]),
        messages=max(sent_messages(party) for party in costs),
        kinds=kinds,
    )


def model_of(protocol: Protocol, network: Network, bundle: Bundle, steady: Phase, loopback: Phase) -> Model:
    """`loopback`: the same without delay."""
    messages = protocol.sequential_messages(steady.messages, bundle_workload(bundle))
    direction_bytes = max(steady.server_bytes, steady.client_bytes)
    predicted = network.predicted_seconds(loopback.median_seconds, messages, direction_bytes)
    return Model(loopback.median_seconds, messages, direction_bytes, predicted, steady.median_seconds)


def answers(bundle: Bundle, logits: np.ndarray) -> Answers:
    """`logits` of the first reference images against what the bundle says of them."""
    count, reference = len(logits), bundle.reference
    plain, labels = reference.logits[:count], None if reference.labels is None else reference.labels[:count]
    said, meant = logits.argmax(1), plain.argmax(1)
    return Answers(
        images=count,
        max_error=float(np.abs(logits - plain).max()),
        logit_scale=float(np.abs(plain).max()),
        agreement=100 * float(np.mean(said == meant)),
        private_accuracy=None if labels is None else 100 * float(np.mean(said == labels)),
        plaintext_accuracy=None if labels is None else 100 * float(np.mean(meant == labels)),
    )
