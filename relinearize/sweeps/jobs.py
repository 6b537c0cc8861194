"""One job of a multirun: its state on disk from start to end, also where it was killed; its errors stay its own."""

import math
import multiprocessing
import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from relinearize.errors import one_line, user_error_behind
from relinearize.sweeps.files import ENDED, JOB_FILE, JobFile, state_of
from relinearize.sweeps.heartbeat import Process, beating, end_with_parent

_at_work: list[Callable[[str], None]] = []  # what notes a state of the job of this process; at most one


def tracked(task: Callable[[DictConfig], tuple[Any, Path]], config: DictConfig) -> float:
    """What a sweeper judges `task(config)` by, which returns record and folder; NaN if it fails.

    A failed job ends like any other for Hydra, whose sweepers start no further batch of jobs after an exception; the
    command that started the sweep reads the states and reports.
    """
    hydra = HydraConfig.get()
    # With n_jobs=1 joblib starts no process: this is the command's own.
    if hydra.runtime.choices.get("launcher") == "joblib" and multiprocessing.current_process().name != "MainProcess":
        end_with_parent()
    # Whatever hydra.sweep.subdir says, which may be one folder for several jobs.
    path = Path(hydra.sweep.dir) / str(hydra.job.num) / JOB_FILE
    job = JobFile(time.time(), Process.this(), int(hydra.job.num), list(hydra.overrides.task))
    before = state_of(path, job.overrides)
    if before and before.state != "done":
        job.seconds = before.taken(path)
    earlier = job.seconds or 0.0
    job.write(path)
    began = time.monotonic()  # clocks may be set while the job runs

    def note(state: str) -> None:
        job.state, job.seconds = state, earlier + time.monotonic() - began
        job.write(path)

    job.state = "stopped"  # unless it comes to an end of its own
    _at_work[:] = [note]
    try:
        with beating(path):
            record, folder = task(config)
        job.state, job.run, job.accuracy = "done", str(folder), record.accuracy.test
        job.objective = record.accuracy.objective
        started = time.time() - (time.monotonic() - began)
        job.found = datetime.fromisoformat(record.created).timestamp() < math.floor(started)
        return job.objective
    except Exception as error:
        cause = user_error_behind(error)
        job.state, job.error = "failed", one_line(cause or error)
        if cause is None:
            traceback.print_exc()
        print(f"relinearize: job {job.number} failed: {job.error}", file=sys.stderr, flush=True)
        return math.nan
    finally:
        _at_work.clear()
        if job.found and before and before.state == "done":
            before.write(path)  # says how long the run took when it was made
        else:
            note(job.state)


def note_waiting() -> None:
    """Note that the job of this process waits once more: its launcher is about to end it and to queue it again."""
    for note in _at_work:
        note("waiting")


def why_lost(job: Any, error: Exception) -> str:
    """One line about submitit's `job`, whose result could not be had because of `error`."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    if isinstance(error, FailedJobError):  # its message is the traceback between dashes
        trace = re.split(r"\n-{5,}\n", str(error))[1]
        return trace.strip().splitlines()[-1]
    if isinstance(error, UncompletedJobError):
        return f"job {job.job_id} ended without a result (state {job.state}); its log: {job.paths.stderr}"
    return one_line(error)


def note_lost(sweep: Path, number: int, overrides: list[str], reason: str) -> float:
    """Note in the folder of the sweep that the job was lost (cancelled, killed, out of memory, on a node that failed),
    unless it has noted an end itself.

    Returns what its run is judged by, NaN if there is none.
    """
    path = sweep / str(number) / JOB_FILE
    job = state_of(path, overrides) or JobFile(time.time(), Process.this(), number, overrides, "waiting")
    if job.state in ENDED:
        return next((value for value in (job.objective, job.accuracy) if value is not None), math.nan)
    job.state, job.error, job.seconds = "failed", reason, job.taken(path)
    job.write(path)
    return math.nan
