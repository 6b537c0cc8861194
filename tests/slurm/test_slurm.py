"""Sweeps through launcher=slurm on a real Slurm of one node (`make test-slurm`)."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import one_node
import pytest
from quick_runs import (
    LARGE,
    SMALL,
    assert_same_tensors,
    lasting,
    quick_command,
    quick_run,
    shell,
    trained_epochs,
)

from relinearize.records.run import find_records
from relinearize.sweeps.status import Sweep

pytestmark = pytest.mark.slurm
SLURM = [
    "launcher=slurm", "hydra.launcher.partition=test", "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1", 'hydra.launcher.setup=["export OMP_NUM_THREADS=1"]',
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm():
    """The environment variables of a running Slurm."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    if reason := one_node.missing():
        pytest.skip(reason)
    # Not below pytest's own folders: munged wants its socket where everybody may look.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, one_node.one_node(Path(folder)) as variables:
        yield variables


def records(tmp_path):
    return find_records([tmp_path / "runs"])


def test_jobs_that_slurm_refuses_are_one_line(slurm, tmp_path):
    done = shell(quick_command(tmp_path, "-m", "seed=0,1", *SLURM, "hydra.launcher.partition=nowhere"), env=slurm)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("relinearize: error: 2 of 2 runs")]
    assert done.returncode == 1 and "invalid partition" in line and "Traceback" not in done.stderr


def test_a_run_that_fails_fails_its_job_and_no_other(slurm, tmp_path):
    """Both have one teacher and one search."""
    settings = (f"budget.fraction={LARGE}", "method.finetune.learning_rate=1e20,0.01", "sweep=mine")
    done = shell(quick_command(tmp_path, "-m", *settings, *SLURM), env=slurm)
    assert done.returncode == 1 and "1 done, 1 failed" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("relinearize: error: 1 of 2 runs are not done; job 0: the loss of")
    assert len(records(tmp_path)) == len(find_records([tmp_path / "sweeps" / "mine"])) == 1
    assert len(list(tmp_path.glob("store/teacher/*/artifact.json"))) == 1
    assert len(trained_epochs(tmp_path)) == 1
    (array,) = {path.name.partition("_")[0] for path in (tmp_path / "sweeps" / "mine").glob(".submitit/*_[01]")}
    ends = [f"{array}_0|FAILED", f"{array}_1|COMPLETED"]  # the second has left its result, and ends in a moment
    wait_for(lambda: all(end in shell(["sacct", "-j", array], env=slurm).stdout for end in ends), seconds=60)


def test_cancelled_job_is_reported_once_the_others_are_done(slurm, tmp_path):
    """Each with a teacher of its own, so that nobody takes over the cancelled job's work."""
    typed = quick_command(tmp_path, "-m", f"budget.fraction={LARGE}", "seed=0,1", "sweep=mine", *SLURM)
    folder = tmp_path / "sweeps" / "mine"
    with started(typed, slurm) as process:
        wait_for(lambda: (folder / "0" / "job.json").exists(), process)
        (job,) = [path.name for path in folder.glob(".submitit/*_0")]
        subprocess.run(["scancel", job], env={**os.environ, **slurm}, check=True)
        out, err = process.communicate(timeout=900)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith(f"relinearize: error: 1 of 2 runs are not done; job 0: job {job} ended without a result"), (
        err
    )
    assert "CANCELLED" in last and str(folder / ".submitit" / job) in last and "Traceback" not in err
    assert "1 done, 1 failed" in out
    assert [row.state for row in Sweep.read(folder).rows] == ["failed", "done"]

    again = shell(typed, env=slurm)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 done" in again.stdout and len(records(tmp_path)) == 2


def test_preempted_job_is_queued_again_and_ends_as_an_undisturbed_one(slurm, tmp_path):
    """Without any checkpoint but that of the notice."""
    settings = (f"budget.fraction={SMALL}", "method.teacher.epochs=20", "trainer.checkpoint_seconds=3600")
    typed = quick_command(tmp_path, "-m", *settings, "sweep=mine", *SLURM, "trainer.progress=lines")
    folder = tmp_path / "sweeps" / "mine"
    seen = set()
    with started(typed, slurm) as process:
        for epoch, stage in ((5, "teacher"), (2, "search")):
            wait_for(lambda word=f"{stage:11s} epoch {epoch}/": word in log(folder), process)
            (job,) = [path.name for path in folder.glob(".submitit/[0-9]*")]
            subprocess.run(["scancel", "--signal=USR2", job], env={**os.environ, **slurm}, check=True)

            def goes_on(message=f"{stage}: going on from"):
                seen.update(row.state for row in Sweep.read(folder).rows)
                return message in log(folder)

            wait_for(goes_on, process)
        out, err = process.communicate(timeout=900)
    assert process.returncode == 0 and "1 done" in out, out + err
    assert "waiting" in seen and seen <= {"waiting", "running"}
    epochs = re.findall(r"^(\w+ +epoch \d+)/", log(folder), re.MULTILINE)
    assert len(epochs) == len(set(epochs)) > 25, "none was trained twice"

    whole, undisturbed = quick_run(tmp_path / "whole", *settings)
    ((path, record),) = records(tmp_path)
    assert_same_tensors(path.parent, undisturbed)
    values, wanted = lasting(record), lasting(whole)
    assert {**values, "config": None} == {**wanted, "config": None}


@contextlib.contextmanager
def started(typed, slurm):
    process = subprocess.Popen(
        typed, env={**os.environ, **slurm}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()


def log(folder):
    """What the jobs of a sweep have printed."""
    return "".join(path.read_text() for path in sorted(folder.glob(".submitit/*/*_log.*")))


def wait_for(condition, process=None, seconds=900):
    """`process`: must live until then."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit and (process is None or process.poll() is None)
        time.sleep(0.1)
