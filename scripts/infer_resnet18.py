#!/usr/bin/env python3
"""ResNet-18 of the papers' width under real two-party computation: all of its ReLUs, and fewer and fewer of them.

    python scripts/infer_resnet18.py [--folder outputs/infer_resnet18] [--width 64] [--images 1]

3 x 32 x 32 pixels, ten classes, random weights (what an inference costs does not depend on their values), random
positions, the same share at every site; and one network that holds about a tenth of its ReLUs at its last five sites.
Each runs under Cheetah and SEMI2K on the emulated WAN (40 ms, 100 Mbit/s), then without delay. Writes table.md and
table.csv into the folder. Records that are there are not measured again.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from costs.measuring import WAN, Bench
from costs.networks import Subject

from relinearize.errors import UserError
from relinearize.private_inference.bundle import read_bundle
from relinearize.private_inference.cost.workload import bundle_workload
from relinearize.records.inference import InferenceRecord

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)
PROTOCOLS = ("cheetah", "semi2k")
COLUMNS = (
    "protocol", "ReLUs", "of all, %", "live sites", "MB", "MB of ReLUs", "bytes per ReLU", "messages",
    "first s, wan", "steady s, wan", "steady s, loopback", "predicted s, wan", "CPU s, both",
    "error / largest logit", "same class", "load",
)  # fmt: skip


def subjects(width: int) -> list[Subject]:
    found = [Subject(f"{100 * share:g} %", "resnet18", width, 32, share) for share in SHARES]
    return [*found, Subject("last 5 sites", "resnet18", width, 32, 1.0, live="last")]


def row(bundle: Path, protocol: str, record: InferenceRecord) -> list[str]:
    """One line of the table."""
    work = bundle_workload(read_bundle(bundle))
    steady, relu = record.steady, record.steady.kinds["relu"].bytes
    return [
        protocol,
        f"{work.relus:,}",
        f"{100 * work.relus / sum(record.positions.values()):.1f}",
        str(record.live_sites),
        f"{steady.bytes / 1e6:.1f}",
        f"{relu / 1e6:.2f}",
        f"{relu / work.relus:.1f}",
        f"{record.model.sequential_messages:,}",
        f"{record.first.median_seconds:.1f}",
        f"{steady.median_seconds:.1f}",
        f"{record.loopback.median_seconds:.1f}",
        f"{record.model.predicted_seconds:.1f}",
        f"{steady.server_cpu_seconds + steady.client_cpu_seconds:.1f}",
        f"{record.fidelity.relative_error:.1e}",
        f"{record.fidelity.agreement:.0f} % of {record.fidelity.images}",
        f"{record.machine['load_before']:.1f}",
    ]


def written(folder: Path, rows: Iterable[Sequence[str]]) -> str:
    """The table as Markdown; leaves table.md and table.csv."""
    rows = list(rows)
    lines = ["| " + " | ".join(line) + " |" for line in (COLUMNS, ["---"] + ["---:"] * (len(COLUMNS) - 1), *rows)]
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows([COLUMNS, *rows])
    (folder / "table.csv").write_text(content.getvalue(), encoding="utf-8")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/infer_resnet18"), help="bundles, records, tables")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--images", type=int, default=1, help="inferred in each, after the first")
    parser.add_argument("--python", default="", help="the Python that has spu (default: .venv-pi/bin/python)")
    options = parser.parse_args(arguments)
    rows = []
    try:
        bench = Bench(options.folder, options.python, PROTOCOLS)
        for protocol in PROTOCOLS:
            for subject in subjects(options.width):
                print(f"{subject.name}: {protocol}", file=sys.stderr, flush=True)
                name = subject.name.replace(" ", "-").replace("%", "percent")
                bundle = options.folder / f"width-{options.width}-images-{options.images}" / name
                if not bundle.exists():
                    subject.export(bundle)
                rows.append(row(bundle, protocol, bench.record(bundle, protocol, WAN, options.images)))
                written(options.folder, rows)
    except UserError as error:
        sys.exit(f"infer_resnet18: error: {error}")
    print(written(options.folder, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
