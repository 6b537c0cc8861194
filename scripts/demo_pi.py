#!/usr/bin/env python3
"""`make demo-pi`: the demo's networks under real two-party computation, accuracy beside what was measured.

    python scripts/demo_pi.py [--python FILE]     # minutes; again in seconds, as everything that is there is kept

Three networks of SNL on the demo's images (digits, ResNet-8), trained if outputs/demo/runs lacks them. Each is exported
and infers test images under Cheetah on loopback and under SEMI2K on the emulated WAN; bundles and records lie in the
runs' folders, where `relinearize report` finds them. The engine comes from `make pi`; --python names another's Python.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import GRAPH, read_bundle
from relinearize.private_inference.cost.network import NETWORKS
from relinearize.private_inference.cost.presets import find_presets, predict
from relinearize.private_inference.cost.workload import bundle_workload
from relinearize.private_inference.engine.options import ENGINES
from relinearize.records.inference import InferenceRecord
from relinearize.records.run import Record

RUNS = Path("outputs/demo/runs")
FRACTIONS = (0.5, 0.1, 0.02)
SNL = ("method=snl", "method/finetune=distill", "total_epochs=null")
IMAGES = 20  # in a bundle
ASKED = (("cheetah", "loopback", 2), ("semi2k", "wan", 3))  # protocol, network, images inferred


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="demo-pi", description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="a Python that has SPU; default: that of `make pi`")
    began, load = time.monotonic(), os.getloadavg()[0]
    # A missing engine is reported before anything is trained.
    engine = ENGINES["spu"].python(parser.parse_args(arguments).python)
    runs = demo_runs()
    if len(runs) < len(FRACTIONS):
        train()
        runs = demo_runs()
    if len(runs) < len(FRACTIONS):
        raise UserError(f"{RUNS} has no runs of SNL at {', '.join(f'{one:.0%}' for one in FRACTIONS)} of the ReLUs")
    for folder, _ in runs:
        if not (folder / "bundle").exists():
            relinearize("export", f"run={folder}", f"images={IMAGES}")
        for protocol, network, images in ASKED:
            if not measured(folder, protocol, network):
                asked = (f"protocol={protocol}", f"network={network}", f"n_images={images}", f"python={engine}")
                output = record_file(folder, protocol, network).parent  # however many threads there are
                relinearize("infer", f"bundle={folder / 'bundle'}", *asked, f"output={output}")
    relinearize("report", str(RUNS))
    console = Console()
    Console(width=None if console.is_terminal else 120).print(table(runs))
    loads = [record.machine["load_before"] for folder, _ in runs for record in records(folder)]
    print(
        f"load while measuring {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores; "
        f"all this took {time.monotonic() - began:.0f} s (load {load:.1f} when it began)"
    )
    print(RUNS / "report.html")
    return 0


def demo_runs() -> list[tuple[Path, Record]]:
    """(folder, record) of SNL's runs at FRACTIONS, those that are there."""
    if not RUNS.exists():
        return []
    found = {}
    for path, record in Record.find([RUNS]):  # an interrupted demo may have left none
        for fraction in FRACTIONS:
            if record.method.name == "snl" and record.budget.met == round(fraction * record.budget.total):
                found[fraction] = (path.parent, record)
    return [found[fraction] for fraction in FRACTIONS if fraction in found]


def train() -> None:
    """SNL on the demo's images, network and teacher."""
    fractions = ",".join(map(str, FRACTIONS))
    relinearize("run", "-m", "experiment=demo", "sweep=demo_pi", *SNL, f"budget.fraction={fractions}")


def relinearize(*arguments: str) -> None:
    """One command, as a user types it; its output is seen. Ends this program where it fails."""
    print(f"$ relinearize {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "relinearize", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def record_file(folder: Path, protocol: str, network: str) -> Path:
    return folder / "bundle-infer" / f"{protocol}-{network}" / "inference.json"


def measured(folder: Path, protocol: str, network: str) -> bool:
    """Whether a record of the bundle as it is now lies there."""
    path = record_file(folder, protocol, network)
    if not path.exists():
        return False
    graph = hashlib.sha256((folder / "bundle" / GRAPH).read_bytes()).hexdigest()
    return InferenceRecord.read(path).bundle["graph_sha256"] == graph


def records(folder: Path) -> list[InferenceRecord]:
    """In the order of ASKED."""
    return [InferenceRecord.read(record_file(folder, protocol, network)) for protocol, network, _ in ASKED]


def table(runs: Sequence[tuple[Path, Record]]) -> Table:
    """A row per network and protocol: ReLUs kept, measured costs, and the cost model's beside them."""
    shown = Table(title="digits, ResNet-8, SNL: accuracy against what private inference takes, per image")
    shown.add_column("ReLUs", justify="right")
    for name in ("accuracy %", "protocol, network", "right", "MB", "model", "seconds", "model", "WAN s by the model"):
        shown.add_column(name, justify="right")
    for folder, run in runs:
        workload = bundle_workload(read_bundle(folder / "bundle"))
        head = (f"{run.budget.met:,}", f"{run.accuracy.test:.2f}")
        for record in records(folder):
            here, wan = (
                predict(find_presets(record.protocol, network)[0], workload).online
                for network in (record.network["name"], "wan")
            )
            fidelity, steady = record.fidelity, record.steady
            shown.add_row(
                *head,
                f"{record.protocol}, {record.network['name']}",
                f"{fidelity.private_accuracy * fidelity.images / 100:.0f} of {fidelity.images}",
                *(f"{steady.bytes / 1e6:.2f}", f"{here.bytes / 1e6:.2f}"),
                *(f"{steady.median_seconds:.2f}", f"{here.seconds:.2f}"),
                f"{wan.seconds:.2f}",
            )
            head = ("", "")
    shown.caption = NETWORKS["wan"].text
    return shown


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"demo-pi: error: {error}")
