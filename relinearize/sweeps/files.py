"""The files of a sweep, each written complete by one process and read by any other that sees the file system.

OUTPUT/sweeps/NAME/sweep.json    the command and all its jobs, there before the first job runs
OUTPUT/sweeps/NAME/0/job.json    what became of job 0; `relinearize status` reads nothing else
"""

from dataclasses import asdict
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from relinearize.errors import UserError
from relinearize.files import read_json, write_json
from relinearize.sweeps.heartbeat import Process

SWEEP_FILE, JOB_FILE = "sweep.json", "job.json"
ENDED = ("done", "failed")  # states that a job noted itself


@dataclass(config=ConfigDict(extra="forbid"))
class _File:
    started: float  # seconds since 1970
    process: Process

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None where there is no such file, or another program's."""
        try:
            return TypeAdapter(cls).validate_python(read_json(path))
        except (UserError, ValueError):
            return None

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


@dataclass
class SweepFile(_File):
    """`jobs`: the overrides of each; None for sweepers that choose the next job by the results of the last (Optuna)."""

    command: str
    jobs: list[list[str]] | None
    ended: float | None = None


@dataclass
class JobFile(_File):
    """`state`: running, done, failed, stopped (by Ctrl-C), or waiting (preempted, and queued again by its launcher).

    A killed job's stays running: see `heartbeat.alive`. A job that was ended and goes on has had several legs.
    """

    number: int
    overrides: list[str]
    state: str = "running"
    seconds: float | None = None  # what its legs took that have ended; None: none has
    found: bool = False  # the run was finished before: its seconds say nothing of the others'
    run: str | None = None  # folder of the finished run
    accuracy: float | None = None  # of the finished run on the test set, in percent
    objective: float | None = None  # on held-out images, for sweepers that choose
    error: str | None = None  # one line

    def taken(self, path: Path) -> float | None:
        """Seconds of all its legs; one that runs, or was killed, counts to the last heartbeat of its file at `path`."""
        if self.state != "running":
            return self.seconds
        try:
            beaten = path.stat().st_mtime
        except OSError:  # the same command, typed again, has removed it meanwhile
            beaten = self.started
        return (self.seconds or 0.0) + max(0.0, beaten - self.started)


def state_of(path: Path, overrides: list[str]) -> JobFile | None:
    """What a job of these overrides left at `path`; None for that of another."""
    job = JobFile.read(path)
    return job if job and job.overrides == overrides else None


def job_files(sweep: Path) -> dict[Path, JobFile]:
    """The states that jobs left below a sweep's folder."""
    found = {path: JobFile.read(path) for path in sorted(sweep.glob(f"*/{JOB_FILE}"))}
    return {path: job for path, job in found.items() if job is not None}
