#!/usr/bin/env python3
"""Benchmarks: how fast the parts are against plain versions of the same, as ratios measured in one run.

    python scripts/benchmark.py                          # all
    python scripts/benchmark.py search --width 16        # one
    python scripts/benchmark.py activation --quick --out activation.json

    activation  MaskedReLU and SlopedReLU against relu and against the formulas, eager and compiled
    search      SNL's search step of ResNet-18 against a plain implementation of the paper's formulas
    convolution 3x3 convolutions by Winograd's algorithm against torch's
    senet       SENet's search and PRAM steps against plain distillation, time and memory
    robust      RLNet's training steps (PGD-7, two routes) against plain ones of the same formulas
    attack      robust accuracy under PGD-20 against torchattacks
    corruptions the whole corrupted set of 10,000 images
    lightning   the pipeline's fit() against a bare loop of the same step
    loader      images a second of the resident loader
    score       a pass of each score against a forward pass of the network
    topk        exact budgets over 1.4 million scores against torch.topk
    gpu         training steps on a CUDA GPU

On a busy machine take --threads 1 --clock cpu: processor time of this process, which others disturb far less.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

import torch
from bench.common import CLOCKS, Row, Settings
from rich.console import Console
from rich.table import Table

from relinearize.machine import processor_name

NAMES = (
    "activation", "search", "convolution", "senet", "robust", "attack", "corruptions", "lightning", "loader", "score",
    "topk", "gpu",
)  # fmt: skip
BENCHMARKS = {name: import_module(f"bench.{name}") for name in NAMES}


def parse(arguments: list[str] | None = None) -> tuple[list[str], Settings, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="benchmark", help=f"some of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch threads")
    parser.add_argument("--width", type=int, default=64, help="channels of ResNet-18's first stage")
    parser.add_argument("--batch", type=int, help="images a step (default 128; 32 with --quick)")
    parser.add_argument(
        "--precision", choices=["32", "bf16", "both"], default="both", help="both: activation both, steps float32"
    )
    parser.add_argument("--rounds", type=int, help="times each variant is measured; the least counts (5; 3 if --quick)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: processor time, for one thread")
    parser.add_argument("--compile", action="store_true", help="search, robust: measure torch.compile as well")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--out", type=Path, help="write the rows as JSON to this file")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}")
    if options.clock == "cpu" and options.threads > 1:
        parser.error("--clock cpu counts the waiting of further threads as work; give --threads 1 with it")
    options.batch = options.batch or (32 if options.quick else 128)
    options.rounds = options.rounds or (3 if options.quick else 5)
    settings = Settings(**{key: value for key, value in vars(options).items() if key not in ("names", "out")})
    return options.names or list(BENCHMARKS), settings, options.out


def main() -> int:
    names, settings, out = parse()
    torch.set_num_threads(settings.threads)
    console = Console()
    rows: list[Row] = []
    for name in names:
        if name == "gpu" and not torch.cuda.is_available():
            console.print("gpu: skipped, torch sees no CUDA device")
            continue
        with console.status(name):
            measured = list(progress(BENCHMARKS[name].measure(settings), console))
        rows += measured
        console.print(table(name, measured, settings))
    if out is not None:
        out.write_text(json.dumps(report(rows, settings), indent=1) + "\n")
        console.print(f"written to {out}")
    return 0


def progress(rows: Iterator[Row], console: Console) -> Iterator[Row]:
    """Each row as soon as it is there, so that a long benchmark is seen to live where output goes to a file."""
    for row in rows:
        if not console.is_terminal:
            print(f"  {row.case}: {row.measure} {show(row.value)} {row.unit}", file=sys.stderr, flush=True)
        yield row


def show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(name: str, rows: list[Row], settings: Settings) -> Table:
    clock = "wall time" if settings.clock == "wall" else "processor time"
    result = Table(title=f"{name} ({settings.threads} thread(s), least {clock} of {settings.rounds})")
    for heading, side in (("case", "left"), ("measure", "left"), ("value", "right"), ("", "left"), ("promise", "left")):
        result.add_column(heading, justify=side)
    case = None
    for row in rows:
        result.add_row(row.case if row.case != case else "", row.measure, show(row.value), row.unit, row.promise)
        case = row.case
    return result


def report(rows: list[Row], settings: Settings) -> dict:
    return {
        "settings": asdict(settings),
        "machine": {
            "processor": processor_name(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
