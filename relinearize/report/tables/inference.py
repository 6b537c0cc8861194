"""inference.md and inference.csv: the private inferences that `relinearize infer` measured of the runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relinearize.private_inference.cost.network import Network
from relinearize.private_inference.cost.prediction import PhaseCost, predict
from relinearize.private_inference.cost.presets import Preset, protocols
from relinearize.private_inference.cost.workload import mask_workload
from relinearize.records.inference import InferenceRecord, Phase
from relinearize.records.run import Record
from relinearize.report.tables.cost import record_workload
from relinearize.report.tables.text import csv_text, markdown, markdown_table, network_name

TITLES = (
    "run", "ReLUs kept", "live sites", "protocol", "network", "MB first / steady", "MB of ReLUs", "MB predicted",
    "messages", "seconds first / steady", "seconds by the model", "seconds predicted", "largest error", "same class",
    "private accuracy", "load before",
)  # fmt: skip
OPTIONS = ("kn2row", "local_truncation")  # of the engine; the presets' constants are of none
OUTSIDE = "outside"  # of all kinds of operations: the engine reads its program, parties wait for a core


@dataclass(frozen=True)
class Inference:
    """One record of inferences and the run that its network is of (None: of none below the folders)."""

    record: InferenceRecord
    run: Record | None

    @property
    def name(self) -> str:
        bundle = self.record.bundle
        return bundle["name"] or Path(bundle["path"]).name

    @property
    def title(self) -> str:
        """The dataset's, for people."""
        return self.run.dataset.title if self.run else self.record.bundle["title"] or "dataset not stated"

    @property
    def method(self) -> str:
        return self.run.method.name if self.run else ""

    @property
    def network(self) -> str:
        """The neural one: backbone, width, convention."""
        bundle = self.record.bundle
        if not bundle["backbone"]:
            return self.name
        return network_name(bundle["backbone"], bundle["width"], bundle["convention"])

    @property
    def link(self) -> Network:
        """What lay between the parties."""
        return Network(**self.record.network)

    @property
    def setting(self) -> str:
        """Protocol with its options, and network: what makes a curve."""
        return " ".join([self.protocol, self.link.name])

    @property
    def protocol(self) -> str:
        used = [option for option in OPTIONS if self.record.settings.get(option)]
        return "+".join([self.record.protocol, *used])

    @property
    def relus(self) -> int:
        return sum(self.record.relus.values())

    @property
    def accuracy(self) -> float | None:
        """Of the network in plaintext on the whole test set, in percent."""
        return self.run.accuracy.test if self.run else self.record.bundle["test_accuracy"]

    @property
    def predicted(self) -> PhaseCost | None:
        """What the counts and the protocol's constants say, without the engine; None where either is not known."""
        protocol = protocols().get(self.record.protocol)
        if protocol is None or self.protocol != self.record.protocol:
            return None
        sites = [(kept, self.record.positions[name]) for name, kept in self.record.relus.items()]
        linear = record_workload(self.run).linear if self.run else None
        found = predict(Preset(self.setting, protocol, self.link), replace(mask_workload(sites), linear=linear))
        return found.online if found.complete else None

    @property
    def kind_seconds(self) -> dict[str, float]:
        """Of the steady inference; OUTSIDE is what is left of its latency.

        Each kind is of the party that took longer for it, so that together they can be a little more than the latency.
        """
        steady = self.record.steady
        found = {kind: cost.seconds for kind, cost in steady.kinds.items()}
        return {**found, OUTSIDE: max(0.0, steady.median_seconds - sum(found.values()))}

    @property
    def kind_bytes(self) -> dict[str, int]:
        return {kind: cost.bytes for kind, cost in self.record.steady.kinds.items()}


def build_inferences(records: Iterable[InferenceRecord], runs: Sequence[Record]) -> list[Inference]:
    """Each record with the run that its network is of, sorted by dataset, network, method, setting and ReLUs."""
    by_key = {run.key: run for run in runs}
    return sorted((Inference(record, by_key.get(record.bundle["key"])) for record in records), key=_order)


def _order(one: Inference) -> tuple:
    return (one.title, one.network, one.method, one.protocol, one.link.rtt_ms, one.link.name, -one.relus, one.name)


def curves(inferences: Sequence[Inference]) -> dict[tuple[str, str], list[Inference]]:
    """(setting, method and network as far as there are several) -> inferences by growing number of ReLUs.

    Those whose accuracy is not known are in no curve.
    """
    known = [one for one in inferences if one.accuracy is not None]
    methods, networks = ({getattr(one, name) for one in known} for name in ("method", "network"))
    found: dict[tuple[str, str], list[Inference]] = {}
    for one in sorted(known, key=lambda one: one.relus):
        parts = [one.method] * (len(methods) > 1) + [one.network] * (len(networks) > 1)
        found.setdefault((one.setting, ", ".join(filter(None, parts))), []).append(one)
    return dict(sorted(found.items()))


def megabytes(phase: Phase) -> float:
    """Of both directions."""
    return phase.bytes / 1e6


def inference_csv(inferences: Sequence[Inference]) -> str:
    """One row per record; unknown values are empty."""
    return csv_text([csv_row(one) for one in inferences])


def csv_row(one: Inference) -> dict[str, Any]:
    """Numbers as measured; megabytes and seconds per image."""
    record, predicted = one.record, one.predicted
    fidelity, model = record.fidelity, record.model
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
        "max_error": fidelity.max_error,
        "relative_error": fidelity.relative_error,
        "agreement": fidelity.agreement,
        "private_accuracy": fidelity.private_accuracy,
        "plaintext_accuracy": fidelity.plaintext_accuracy,
        "images": fidelity.images,
        "test_accuracy": one.accuracy,
        "load_before": record.machine["load_before"],
        "cores": record.machine["cores"],
        "created": record.created,
    }


def inference_markdown(inferences: Sequence[Inference]) -> str:
    """The table for people, one per dataset."""
    tables = {}
    for title in dict.fromkeys(one.title for one in inferences):
        own = [cells(one) for one in inferences if one.title == title]
        tables[title] = markdown_table(TITLES, own, left=(0, 3, 4))
    return markdown("inference.md", tables=tables)


def cells(one: Inference) -> list[str]:
    """The row under TITLES; "-" where nothing is known."""
    record, predicted = one.record, one.predicted
    fidelity, first, steady = record.fidelity, record.first, record.steady
    # Without a delay the model says what was measured.
    model = f"{record.model.predicted_seconds:.2f}" if record.loopback is not None else "-"
    private = "-"
    if fidelity.private_accuracy is not None:
        private = f"{fidelity.private_accuracy:.1f} % of {fidelity.images}"
        if fidelity.private_accuracy != fidelity.plaintext_accuracy:
            private += f" (plaintext {fidelity.plaintext_accuracy:.1f} %)"
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
        f"{fidelity.relative_error:.1e}",
        f"{fidelity.agreement:.1f} % of {fidelity.images}",
        private,
        f"{record.machine['load_before']:.1f} on {record.machine['cores']} cores",
    ]
