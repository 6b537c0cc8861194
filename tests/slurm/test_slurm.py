"""Sweeps through launcher=slurm on a real Slurm of one node (`make test-slurm`)."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "experiment")]

import one_node
from quick_runs import LARGE, MIDDLE, SMALL, command, quick_command, shell, trained_epochs

from relinearize.experiment.records import find_records
from relinearize.sweeps.status import Sweep

pytestmark = pytest.mark.slurm
SLURM = [
    "launcher=slurm", "hydra.launcher.partition=test", "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1", 'hydra.launcher.setup=["export OMP_NUM_THREADS=1"]',
]  # fmt: skip
SIX = f"{LARGE},0.5,0.45,{MIDDLE},0.3,{SMALL}"


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


def test_pareto_sweep_makes_one_teacher_and_one_search(slurm, tmp_path):
    typed = quick_command(tmp_path, "-m", f"budget.fraction={SIX}", "sweep=mine", *SLURM)
    done = shell(typed, env=slurm)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 done" in done.stdout
    assert len(records(tmp_path)) == len(find_records([tmp_path / "sweeps" / "mine"])) == 6
    assert len(list(tmp_path.glob("store/teacher/*/artifact.json"))) == 1
    assert len(trained_epochs(tmp_path)) == 1


def test_jobs_that_slurm_refuses_are_one_line(slurm, tmp_path):
    done = shell(quick_command(tmp_path, "-m", "seed=0,1", *SLURM, "hydra.launcher.partition=nowhere"), env=slurm)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("relinearize: error: 2 of 2 runs")]
    assert done.returncode == 1 and "invalid partition" in line and "Traceback" not in done.stderr


def test_cancelled_job_leaves_the_others(slurm, tmp_path):
    """Each with a teacher of its own, so that nobody takes over the cancelled job's work."""
    typed = quick_command(
        tmp_path, "-m", f"budget.fraction={LARGE}", "seed=0,1,2", "sweep=mine", "method.teacher.epochs=30", *SLURM
    )
    folder = tmp_path / "sweeps" / "mine"
    process = subprocess.Popen(
        typed, env={**os.environ, **slurm}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: (folder / "1" / "job.json").exists(), process)
        (job,) = [path.name for path in folder.glob(".submitit/*_1")]
        subprocess.run(["scancel", job], env={**os.environ, **slurm}, check=True)
        _, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith("relinearize: error: ") and f"Job {job}" in last and "CANCELLED" in last, err
    assert "Traceback" not in err
    wanted = ["done", "killed", "done"]
    # submitit gives up at the first job without a result, maybe before the jobs behind it have ended.
    # The cancelled one may get to note its end before Slurm kills it.
    wait_for(lambda: [row.state.replace("stopped", "killed") for row in Sweep.read(folder).rows] == wanted)
    shown = shell(command("status", str(folder)))
    assert "2 done, 1 " in shown.stdout and "go on with: relinearize run" in shown.stdout

    again = shell(typed, env=slurm)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 done" in again.stdout and len(records(tmp_path)) == 3


def wait_for(condition, process=None, seconds=120):
    """`process`: must live until then."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit and (process is None or process.poll() is None)
        time.sleep(0.1)
