"""Jobs that ended without a word: cancelled, killed, out of memory, on a node that failed. Their sweep says so."""

import math
import re
import time
from pathlib import Path
from typing import Any

from relinearize.sweeps.files import JOB_FILE, JobFile, job_files
from relinearize.sweeps.heartbeat import Process
from relinearize.sweeps.tracked import one_line

OWN_ENDS = ("done", "failed")


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
    """Note in the folder of the sweep that the job failed, unless it has noted an end of its own.

    Returns the accuracy of its run, NaN if there is none.
    """
    found = {path: job for path, job in job_files(sweep).items() if job.number == number and job.overrides == overrides}
    for job in found.values():
        if job.state in OWN_ENDS:
            return math.nan if job.accuracy is None else job.accuracy
    path, job = next(iter(found.items()), (sweep / str(number) / JOB_FILE, None))
    job = job or JobFile(time.time(), Process.this(), number, overrides)
    job.state, job.error = "failed", reason
    job.write(path)
    return math.nan
