"""Where a sweep stands, from its files: a table of its jobs, and when the last may be done.

Printed at the end of a multirun, and by `relinearize status`.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape
from rich.table import Column

from relinearize.errors import UserError
from relinearize.sweeps.files import ENDED, SWEEP_FILE, JobFile, SweepFile, job_files
from relinearize.sweeps.heartbeat import Process, alive
from relinearize.terminal import duration, new_table, number_column, print_lines, print_table, text_column

# State -> its colour, in the order of the summary.
STATES = {"done": "green", "running": "cyan", "failed": "red", "stopped": "red", "killed": "red", "waiting": "dim"}


@dataclass
class Sweep:
    """`launching`: whether the process that starts the jobs lives. `rows`: the jobs; a killed one's state says so, and
    `seconds` is what one that is not done has taken so far."""

    folder: Path
    command: str
    launching: bool
    rows: list[JobFile]

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        """UserError where `folder` holds no sweep.json of this program."""
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
        left = sum(row.state not in ENDED for row in self.rows)
        return sum(times) / len(times) * left / running if times and running else None


def rows_of(jobs: list[list[str]] | None, files: dict[Path, JobFile]) -> list[JobFile]:
    """A row for each listed job; where there is no list, for each that has started.

    A state that an earlier command of the same name left for another job is not looked at.
    """
    nowhere = Process("", 0)
    rows = {number: JobFile(0.0, nowhere, number, words, "waiting") for number, words in enumerate(jobs or [])}
    for path, job in files.items():
        if jobs is not None and (job.number not in rows or rows[job.number].overrides != job.overrides):
            continue
        if job.state == "running":
            state = "running" if alive(job.process, path) else "killed"
            job = replace(job, state=state, seconds=job.taken(path))
        rows[job.number] = job
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
    paths = [path for pattern in ("sweeps/*", "*/sweeps/*") for path in output.glob(f"{pattern}/{SWEEP_FILE}")]
    begun = {path.parent: file.started if (file := SweepFile.read(path)) else 0.0 for path in paths}
    return sorted(begun, key=begun.__getitem__, reverse=True)


def print_sweep(sweep: Sweep) -> None:
    """Print a row for each job in the order of the command, and the summary."""
    errors = any(row.error for row in sweep.rows)
    columns = [number_column("job"), text_column("run"), Column("state", no_wrap=True)]
    columns += [*map(number_column, ("time", "test")), *map(text_column, ["error"] * errors)]
    table = new_table(f"sweep {sweep.folder}", *columns)
    # What tells the jobs apart: each one's overrides without those that all share (with one job: all).
    shared = set.intersection(*(set(row.overrides) for row in sweep.rows)) if len(sweep.rows) > 1 else set()
    for row in sweep.rows:
        colour = STATES.get(row.state, "default")
        cells = [
            str(row.number),
            escape(" ".join(word for word in row.overrides if word not in shared)),
            f"[{colour}]{'found' if row.found else row.state}[/{colour}]",
            "-" if row.seconds is None or row.found else duration(row.seconds),
            "-" if row.accuracy is None else f"{row.accuracy:.2f}",
        ]
        table.add_row(*cells, *([escape(row.error or "")] if errors else []))
    print_table(table)
    print_lines(summary(sweep))


def summary(sweep: Sweep) -> list[str]:
    """Counts and ETA; for a sweep that stands still, the command that goes on."""
    counts, remaining = sweep.counts, sweep.remaining
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]] or ["no job has started"]
    lines = [", ".join(parts)]
    if any(row.state not in ENDED for row in sweep.rows):
        lines[0] += f"; ETA {'-' if remaining is None else duration(remaining)}"
    if not sweep.launching and not counts["running"] and counts["done"] < len(sweep.rows):
        # Killed: Slurm itself queues jobs again, of nodes that failed, say, and tells them nothing.
        waits = "slurm" in sweep.command and (counts["waiting"] or counts["killed"])
        queued = " (but in Slurm's queue, perhaps: see squeue)" if waits else ""
        lines += [f"not all is done and nothing is running{queued}; go on with: {sweep.command}"]
    return lines
