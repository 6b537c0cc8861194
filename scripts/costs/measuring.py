"""The engine's measurements of one network, by the command that users type; what was measured before is read."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from costs.networks import Subject
from relinearize.errors import UserError
from relinearize.private_inference.bundle import read_bundle
from relinearize.private_inference.cost.network import Network, read_network
from relinearize.private_inference.cost.workload import bundle_workload
from relinearize.private_inference.engine.options import ENGINES, PROTOCOLS, InferOptions
from relinearize.records.inference import InferenceRecord, Phase

# A protocol of presets.json -> images that are inferred under it. Without its options, as users run it.
SETTINGS = {"cheetah": 2, "semi2k": 5, "tfp": 5}
SETTINGS_OF_LARGE = {"cheetah": 1, "semi2k": 3, "tfp": 3}
# Latency as a multiple of processor time on an idle machine: 0.99 to 1.21 in results/'s records of Cheetah and CrypTen.
WAITING = 1.2
LOOPBACK, WAN = "loopback", "wan"
# Eigen, in SPU, multiplies with two OpenMP threads whatever OMP_NUM_THREADS says, which wait for each other in a loop:
# on as many cores as parties that takes ten times as long. This limit holds for it, too.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}
ROUND_TRIPS = ("{rtt_ms:20}", "{rtt_ms:160}")  # between these two Cheetah's time grows by its messages alone


@dataclass(frozen=True)
class Measured:
    """One subject under one preset. seconds: on loopback, see `undisturbed`; shares: kind of operation -> its part of
    them; bytes: both ways; busier: the share of the direction that sends more; messages: None where they were not
    measured; wan_seconds: the least, None unless tested.
    """

    subject: Subject
    preset: str
    features: dict[str, int]
    seconds: float
    shares: dict[str, float]
    bytes: int
    busier: float
    messages: float | None
    wan_seconds: float | None
    records: tuple[InferenceRecord, ...]


class Bench:
    """`folder`: where bundles and records are; records that lie there are not measured again."""

    def __init__(self, folder: Path, python: str = "", presets: Sequence[str] = tuple(SETTINGS)) -> None:
        self.folder = folder
        self.presets = presets
        self.pythons = {name: interpreter(name, python) for name in presets}
        self.found = 0

    def measure(self, subjects: Sequence[Subject], now: Callable[[str], None]) -> Iterator[Measured]:
        """Every subject under every preset; `now` is called with what begins."""
        for subject in subjects:
            bundle = self.folder / subject.name.replace(" ", "-").replace(",", "").replace("%", "percent")
            if not bundle.exists():
                now(f"{subject.name}: export")
                subject.export(bundle)
            features = bundle_workload(read_bundle(bundle)).features()
            for preset in self.presets:
                records = {}
                for network in networks(subject, preset):
                    now(f"{subject.name}: {preset}, {network}")
                    images = (SETTINGS_OF_LARGE if subject.large else SETTINGS)[preset]
                    images = 1 if network in ROUND_TRIPS else images
                    records[network] = self.record(bundle, preset, network, images)
                yield measured(subject, preset, features, records)

    def record(self, bundle: Path, preset: str, network: str, images: int) -> InferenceRecord:
        """UserError with the engine's own words where it fails."""
        output = bundle.with_name(f"{bundle.name}-infer") / f"{preset}-{read_network(network).name}"
        if (output / "inference.json").exists():
            self.found += 1
            return InferenceRecord.read(output / "inference.json")
        options = InferOptions(bundle, protocol=preset, n_images=images, network=network, output=output)
        command = [self.pythons[preset], "-P", "-m", "relinearize.private_inference.engine", options.to_json()]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise UserError(f"relinearize infer bundle={bundle} protocol={preset} network={network} failed: {reason}")
        return InferenceRecord.read(output / "inference.json")


def interpreter(preset: str, asked: str = "") -> str | Path:
    """The Python that has the engine of a preset: this one, or else `asked` or the Makefile's."""
    engine = ENGINES[PROTOCOLS[preset].engine]
    return sys.executable if engine.here else engine.python(asked)


def networks(subject: Subject, preset: str) -> list[str]:
    """Where a subject is run: on loopback; on the WAN, too, if it tests the model, and on two slow ones if messages
    come from it. What a record of the WAN has without delay went through the delay proxy, a third process on the
    parties' cores, and is of no use here."""
    slow = ROUND_TRIPS if subject.messages and preset == "cheetah" else ()
    return [LOOPBACK, *([WAN] if subject.tested else []), *slow]


def measured(subject: Subject, preset: str, features: dict[str, int], records: dict[str, InferenceRecord]) -> Measured:
    """From the records by network."""
    base = records[LOOPBACK].steady
    sent = (base.server_bytes, base.client_bytes)
    counted = float(base.messages) if PROTOCOLS[preset].counted else None
    slow = [records[network] for network in ROUND_TRIPS if network in records]
    return Measured(
        subject=subject,
        preset=preset,
        features=features,
        seconds=undisturbed(base),
        shares={kind: cost.seconds / base.median_seconds for kind, cost in base.kinds.items()},
        bytes=sum(sent),
        busier=max(sent) / sum(sent),
        messages=waited_for(*slow) if slow else counted,
        wan_seconds=min(records[WAN].steady.seconds) if WAN in records else None,
        records=tuple(records.values()),
    )


def undisturbed(phase: Phase) -> float:
    """The least latency, and no more than WAITING times the processor time of the busier party, to which load adds
    little: the two compute at the same time for the most part."""
    return min(*phase.seconds, WAITING * max(phase.server_cpu_seconds, phase.client_cpu_seconds))


def waited_for(near: InferenceRecord, far: InferenceRecord) -> float:
    """One-way messages that wait for each other: by what latency grows with the delay."""
    seconds = [min(record.steady.seconds) for record in (near, far)]
    delays = [Network(**record.network).one_way_seconds for record in (near, far)]
    return (seconds[1] - seconds[0]) / (delays[1] - delays[0])
