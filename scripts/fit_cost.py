#!/usr/bin/env python3
"""The measured constants of the cost models (cost/presets.json), fitted again on this machine.

    python scripts/fit_cost.py                 # measure, fit, write presets.json; 35 minutes on a quiet machine
    python scripts/fit_cost.py --preset tfp    # the constants of one preset alone
    python scripts/fit_cost.py --check         # measure, compare with the present constants; exit 1 beyond limits
    python scripts/fit_cost.py --quick --check # some of the networks: minutes
    python scripts/fit_cost.py --dry           # as without, but print the constants instead of writing them

Networks of width 16 to 64 with random weights and masks of every kind run under Cheetah and SEMI2K, in the engine's
environment (`make pi`), and under CrypTen (`make crypten`): on loopback for bytes and time, with two delays for the
messages of Cheetah, which runs transfers side by side. The constants are least squares of the relative errors, none
below zero. Three networks are kept out of the fit and run on the WAN, too: the table shows how far off the model is for
them, in bytes (at most 10 %) and seconds (20 %). It is in --folder as table.md, too.

Records are kept in --folder and not measured again; delete it to measure anew.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from costs.fitting import as_text, fitted, with_constants
from costs.measuring import SETTINGS, WAN, Bench, Measured, networks
from costs.networks import QUICK, SUBJECTS
from rich.box import HEAVY_HEAD, MARKDOWN, Box
from rich.console import Console
from rich.table import Table

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import NETWORKS
from relinearize.private_inference.cost.presets import FILE, Protocol, protocols_of
from relinearize.progress import WorkProgress, say
from relinearize.records.inference import InferenceRecord

PRESETS = ROOT / "relinearize/private_inference/cost" / FILE
NUMBERS = ("MB", "messages", "loopback s", "wan s")
LIMITS = {"MB": 0.10, "loopback s": 0.20, "wan s": 0.20}
ENGINE_NAMES = {"spu": "SPU", "crypten": "CrypTen"}
WIDTH = 200
BUSY = 2.5  # one-minute load, from which on times say little


@dataclass(frozen=True)
class Comparison:
    """One number of one measurement beside the model's; `limit`: the share by which it may be off, None for none."""

    measured: Measured
    name: str
    prediction: float
    measurement: float
    limit: float | None

    @property
    def off(self) -> float:
        """As a share of the measurement; above zero where the model predicts more."""
        return self.prediction / self.measurement - 1 if self.measurement else float(self.prediction != 0)

    @property
    def beyond(self) -> bool:
        """Whether this is one that counts, and too far off."""
        return self.limit is not None and self.measured.subject.tested and abs(self.off) > self.limit


def compared(measurements: Sequence[Measured], protocols: dict[str, Protocol]) -> list[Comparison]:
    found = []
    for one in measurements:
        phase = protocols[one.preset].online
        seconds, size, messages = (terms.of(one.features) for terms in (phase.seconds, phase.bytes, phase.messages))
        numbers = [("MB", size / 1e6, one.bytes / 1e6), ("loopback s", seconds, one.seconds)]
        if one.messages is not None:
            numbers.append(("messages", messages, one.messages))
        if one.wan_seconds is not None:
            slow = NETWORKS[WAN].predicted_seconds(seconds, messages, size * phase.busier_direction)
            numbers.append(("wan s", slow, one.wan_seconds))
        found += [Comparison(one, *number, LIMITS.get(number[0])) for number in numbers]
    return found


def table(comparisons: Sequence[Comparison], box: Box = HEAVY_HEAD) -> Table:
    """A row for each network under each preset, with the measurement, the model, and how far off the model is."""
    shown = Table("preset", "network", box=box)
    for column in ("ReLUs, live sites", *chain(*((name, "model", "off") for name in NUMBERS))):
        shown.add_column(column, justify="right")
    for (preset, subject), group in groupby(comparisons, lambda one: (one.measured.preset, one.measured.subject)):
        cells = {}
        for one in group:
            counts = one.measured.features
            off = f"{100 * one.off:+.0f} %{' *' if one.beyond else ''}"
            cells[one.name] = (f"{one.measurement:,.3g}", f"{one.prediction:,.3g}", off)
        kind = " (unseen)" if subject.tested else ""
        several = chain(*(cells.get(name, ("", "", "")) for name in NUMBERS))
        shown.add_row(preset, f"{subject.name}{kind}", f"{counts['relus']:,}, {counts['live_sites']}", *several)
    return shown


def verdict(comparisons: Sequence[Comparison]) -> tuple[bool, str]:
    """Whether all that is tested lies within the limits, and how far the worst of each kind is off."""
    beyond = [one for one in comparisons if one.beyond]
    worst = []
    for name, limit in LIMITS.items():
        off = [abs(one.off) for one in comparisons if one.name == name and one.measured.subject.tested]
        if off:
            worst.append(f"{name} within {100 * max(off):.0f} % (limit {100 * limit:.0f})")
    lines = ["tested networks: " + ", ".join(worst)]
    lines += [f"beyond: {one.measured.preset}, {one.measured.subject.name}, {one.name}" for one in beyond]
    return not beyond, "\n".join(lines)


def source_text(records: Sequence[InferenceRecord]) -> str:
    """Where constants come from: the machine and versions in the records of one preset."""
    first, loads = records[0], [record.machine["load_before"] for record in records]
    return (
        f"measured {max(record.created for record in records)[:10]} by scripts/fit_cost.py: "
        f"{ENGINE_NAMES[first.engine]} {first.versions[first.engine]}, 64-bit ring, two processes of "
        f"{first.machine['threads']} thread on {first.machine['cores']} cores of {first.machine['cpu']}, "
        f"load {min(loads):.1f} to {max(loads):.1f}"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the present constants and write nothing")
    parser.add_argument("--dry", action="store_true", help="print the fitted constants instead of writing them")
    parser.add_argument("--quick", action="store_true", help=f"only {len(QUICK)} of {len(SUBJECTS)} networks")
    parser.add_argument("--preset", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="these only")
    parser.add_argument("--folder", type=Path, default=Path("outputs/fit_cost"), help="bundles and records")
    parser.add_argument("--python", default="", help="the Python that has spu (default: .venv-pi/bin/python)")
    options = parser.parse_args(arguments)
    if options.quick and not (options.check or options.dry):
        parser.error("--quick has too few networks for constants; give --check or --dry with it")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = Console(stderr=True)
    subjects = [one for one in SUBJECTS if not options.quick or one.name in QUICK]
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"load {load:.1f}: seconds measured now say little; bytes and messages do", file=sys.stderr)
    steps = sum(1 + sum(len(networks(one, preset)) for preset in options.preset) for one in subjects)
    try:
        bench = Bench(options.folder, options.python, options.preset)
        with WorkProgress(steps, line=lambda text: say(f"{datetime.now():%H:%M:%S} {text}")) as progress:

            def now(text: str) -> None:
                progress.begins(text, announce=True)
                progress.done(1)

            measurements = sorted(bench.measure(subjects, now), key=lambda one: list(SETTINGS).index(one.preset))
    except UserError as error:
        sys.exit(f"fit_cost: error: {error}")
    if bench.found:
        print(f"{bench.found} records were found in {options.folder}; delete it to measure anew", file=sys.stderr)
    content = json.loads(PRESETS.read_text(encoding="utf-8"))
    if not options.check:
        records = {name: [one.records for one in measurements if one.preset == name] for name in options.preset}
        sources = {name: source_text(list(chain(*several))) for name, several in records.items()}
        content = with_constants(content, fitted(measurements), sources)
    comparisons = compared(measurements, protocols_of(content))
    print("one inference, measured beside the model; * beyond the limits; unseen: kept out of the fit")
    Console(width=None if console.is_terminal else WIDTH).print(table(comparisons))
    with (options.folder / "table.md").open("w", encoding="utf-8") as file:
        Console(file=file, width=WIDTH).print(table(comparisons, MARKDOWN))
    good, text = verdict(comparisons)
    print(text)
    if options.check:
        return 0 if good else 1
    if options.dry:
        changed = {name: content["protocols"][name]["online"] for name in options.preset}
        print(as_text({**changed, "date": datetime.now(UTC).date().isoformat()}))
    else:
        PRESETS.write_text(as_text(content) + "\n", encoding="utf-8")
        print(f"written: {PRESETS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
