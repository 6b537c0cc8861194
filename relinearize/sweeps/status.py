"""Where a sweep stands, from its files: the state and time of every job, and when the last may be done."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from relinearize.errors import UserError
from relinearize.sweeps.files import SWEEP_FILE, JobFile, SweepFile, job_files
from relinearize.sweeps.heartbeat import alive

STATES = ("done", "running", "failed", "stopped", "killed", "waiting")
OVER = ("done", "failed")


@dataclass
class Row:
    """One job. `seconds`: what it took, or has taken so far."""

    number: int
    overrides: list[str]
    state: str = "waiting"
    seconds: float | None = None
    found: bool = False
    accuracy: float | None = None
    error: str | None = None


@dataclass
class Sweep:
    folder: Path
    command: str
    launching: bool  # whether the process that starts the jobs lives
    rows: list[Row]

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        file = SweepFile.read(folder / SWEEP_FILE)
        if file is None:
            raise UserError(f"{folder / SWEEP_FILE} cannot be read; the same command writes it anew")
        launching = file.ended is None and alive(file.process, folder / SWEEP_FILE)
        return cls(folder, file.command, launching, rows_of(file.jobs, job_files(folder)))

    @property
    def counts(self) -> Counter[str]:
        return Counter(row.state for row in self.rows)

    @property
    def remaining(self) -> float | None:
        """Seconds until all is done: the mean time of those done, times those left, over those running at once.

        None as long as none is done, or where none runs. Runs that were finished before the sweep do not count.
        """
        times = [row.seconds for row in self.rows if row.state == "done" and not row.found and row.seconds is not None]
        running = self.counts["running"]
        left = sum(row.state not in OVER for row in self.rows)
        return sum(times) / len(times) * left / running if times and running else None


def rows_of(jobs: list[list[str]] | None, files: dict[Path, JobFile]) -> list[Row]:
    """A row for each listed job; where there is no list, for each that has started.

    A state that an earlier command of the same name left for another job is not looked at.
    """
    rows = {number: Row(number, overrides) for number, overrides in enumerate(jobs or [])}
    for path, job in files.items():
        if jobs is not None and (job.number not in rows or rows[job.number].overrides != job.overrides):
            continue
        state, seconds = job.state, job.seconds
        if state == "running":
            seconds = max(0.0, time.time() - job.started)
            if not alive(job.process, path):
                state, seconds = "killed", None
        rows[job.number] = Row(job.number, job.overrides, state, seconds, job.found, job.accuracy, job.error)
    return [rows[number] for number in sorted(rows)]


def find_sweep(name: str | None) -> Path:
    """The folder of the sweep: `name` is that folder, or its last part, or an output folder; None is `outputs`.

    Of an output folder the sweep begun last, also of those in output/*/sweeps, where some experiments put theirs.
    """
    if name and (Path(name) / SWEEP_FILE).is_file():
        return Path(name)
    sweeps = sweeps_below(Path("outputs"))
    named = [folder for folder in sweeps if folder.name == name]
    if len(named) == 1:
        return named[0]
    newest = (sweeps if name is None else sweeps_below(Path(name)))[:1]
    if newest and not named:
        return newest[0]
    wanted = f"status {name}" if name else "status"
    problem = "several sweeps have this name" if named else "no such sweep"
    there = ", ".join(str(folder) for folder in (named or sweeps)) or "none in outputs"
    raise UserError(f"{wanted}: {problem}; give a sweep's name or folder; there are: {there}")


def sweeps_below(output: Path) -> list[Path]:
    """The sweeps of an output folder, the one begun last first."""
    found = [path.parent for pattern in ("sweeps/*", "*/sweeps/*") for path in output.glob(f"{pattern}/{SWEEP_FILE}")]
    return sorted(found, key=_begun, reverse=True)


def _begun(folder: Path) -> float:
    file = SweepFile.read(folder / SWEEP_FILE)
    return file.started if file else 0.0


def shown_overrides(rows: Iterable[Row]) -> list[str]:
    """What tells the jobs apart: each one's overrides without those that all share (with one job: all)."""
    rows = list(rows)
    shared = set.intersection(*(set(row.overrides) for row in rows)) if len(rows) > 1 else set()
    return [" ".join(word for word in row.overrides if word not in shared) for row in rows]
