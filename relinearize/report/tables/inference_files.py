"""inference.csv and inference.md: the measured private inferences, a row each."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from relinearize.report.tables.inference import Inference, megabytes

TITLES = (
    "run", "ReLUs kept", "live sites", "protocol", "network", "MB first / steady", "MB of ReLUs", "MB predicted",
    "messages", "seconds first / steady", "seconds by the model", "seconds predicted", "largest error", "same class",
    "private accuracy", "load before",
)  # fmt: skip
NOTE = """\
Per image, medians of the steady inferences; MB are 10^6 bytes, both directions; first: with the protocol's set-up.
By the model: T_loopback + messages x RTT/2 + bytes / rate, from what was measured without delay. Predicted: from the
counts of the network and the constants of `relinearize cost`, without the engine. Largest error: of a logit, against
plaintext, as a share of the largest logit. Same class: as in plaintext. Load: average of the minute before; where it is
above the number of cores, the seconds say little."""


def inference_csv(inferences: Sequence[Inference]) -> str:
    """One row per record; unknown values are empty."""
    rows = [csv_row(one) for one in inferences]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def csv_row(one: Inference) -> dict[str, Any]:
    """Numbers as measured; megabytes and seconds per image."""
    record, predicted = one.record, one.predicted
    answers, model = record.answers, record.model
    return {
        "run": one.name,
        "key": record.bundle["key"],
        "title": one.title,
        "method": one.method,
        "backbone": record.bundle["backbone"],
        "width": record.bundle["width"],
        "relus": one.relus,
        "relus_total": sum(record.positions.values()),
        "live_sites": record.live_sites,
        "sites": len(record.relus),
        "protocol": one.protocol,
        "network": one.link.name,
        "rtt_ms": one.link.rtt_ms,
        "mbps": one.link.mbps,
        "first_mb": megabytes(record.first),
        "steady_mb": megabytes(record.steady),
        **{f"{kind}_mb": size / 1e6 for kind, size in one.kind_bytes.items()},
        "predicted_mb": predicted and predicted.bytes / 1e6,
        "messages": record.steady.messages,
        "sequential_messages": model.sequential_messages,
        "first_s": record.first.median_seconds,
        "steady_s": record.steady.median_seconds,
        "steady_n": len(record.steady.seconds),
        **{f"{kind}_s": seconds for kind, seconds in one.kind_seconds.items()},
        "loopback_s": model.loopback_seconds,
        "model_s": model.predicted_seconds,
        "predicted_s": predicted and predicted.seconds,
        "max_error": answers.max_error,
        "relative_error": answers.relative_error,
        "agreement": answers.agreement,
        "private_accuracy": answers.private_accuracy,
        "plaintext_accuracy": answers.plaintext_accuracy,
        "images": answers.images,
        "test_accuracy": one.accuracy,
        "load_before": record.machine["load_before"],
        "cores": record.machine["cores"],
        "created": record.created,
    }


def inference_markdown(inferences: Sequence[Inference]) -> str:
    """The table for people, one per dataset."""
    lines = ["# Measured private inferences", "", NOTE]
    for title in dict.fromkeys(one.title for one in inferences):
        lines += ["", f"## {title}", "", f"| {' | '.join(TITLES)} |"]
        lines.append(f"| --- | ---: | ---: | --- | --- |{' ---: |' * (len(TITLES) - 5)}")
        lines += [f"| {' | '.join(map(_plain, cells(one)))} |" for one in inferences if one.title == title]
    return "\n".join(lines) + "\n"


def cells(one: Inference) -> list[str]:
    """The row under TITLES; "-" where nothing is known."""
    record, predicted = one.record, one.predicted
    answers, first, steady = record.answers, record.first, record.steady
    # Without a delay the model says what was measured.
    model = f"{record.model.predicted_seconds:.2f}" if record.loopback is not None else "-"
    private = "-"
    if answers.private_accuracy is not None:
        private = f"{answers.private_accuracy:.1f} % of {answers.images}"
        if answers.private_accuracy != answers.plaintext_accuracy:
            private += f" (plaintext {answers.plaintext_accuracy:.1f} %)"
    return [
        one.name,
        f"{one.relus:,}",
        f"{record.live_sites} of {len(record.relus)}",
        one.protocol,
        one.link.text,
        f"{megabytes(first):.2f} / {megabytes(steady):.2f}",
        f"{one.kind_bytes['relu'] / 1e6:.3f}",
        "-" if predicted is None else f"{predicted.bytes / 1e6:.2f}",
        f"{steady.messages:,}",
        f"{first.median_seconds:.2f} / {steady.median_seconds:.2f}",
        model,
        "-" if predicted is None else f"{predicted.seconds:.2f}",
        f"{answers.relative_error:.1e}",
        f"{answers.agreement:.1f} % of {answers.images}",
        private,
        f"{record.machine['load_before']:.1f} on {record.machine['cores']} cores",
    ]


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
