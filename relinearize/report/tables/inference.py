"""The measured private inferences of the runs: what `relinearize infer` left beside the bundles below their folders."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from relinearize.private_inference.cost.network import Network
from relinearize.private_inference.cost.prediction import PhaseCost, predict
from relinearize.private_inference.cost.presets import Preset, protocols
from relinearize.private_inference.cost.workload import mask_workload
from relinearize.records.inference import InferenceRecord, Phase
from relinearize.records.run import Record
from relinearize.report.tables.cost import record_workload

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
        width = "" if bundle["width"] is None else f" (width {bundle['width']})"
        return f"{bundle['backbone']}{width}, {bundle['convention']} convention" if bundle["backbone"] else self.name

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
        return found.online if found.whole else None

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
