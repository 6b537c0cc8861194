"""A run on two devices (two processes on the CPU) as one job of a real Slurm."""

import os
import subprocess

import pytest
from test_slurm import SLURM, log, records, slurm, started, wait_for  # noqa: F401

from relinearize.sweeps.status import Sweep

pytestmark = pytest.mark.slurm

from quick_runs import SMALL, assert_same_tensors, lasting, quick_command, quick_run


def test_two_devices_in_a_job_and_a_notice_before_its_end(slurm, tmp_path):  # noqa: F811
    """The notice reaches all processes of the job; the run goes on in the next one and ends as if there were none."""
    settings = (f"budget.fraction={SMALL}", "method.teacher.epochs=20", "trainer.devices=2")
    typed = quick_command(tmp_path, "-m", *settings, "sweep=mine", *SLURM, "trainer.progress=lines")
    folder = tmp_path / "sweeps" / "mine"
    with started(typed, slurm) as process:
        wait_for(lambda: "teacher     epoch 5/" in log(folder), process)
        (job,) = [path.name for path in folder.glob(".submitit/[0-9]*")]
        subprocess.run(["scancel", "--signal=USR2", job], env={**os.environ, **slurm}, check=True)
        out, err = process.communicate(timeout=900)
    assert process.returncode == 0 and "1 done" in out, out + err
    assert [row.state for row in Sweep.read(folder).rows] == ["done"]
    assert "teacher: going on from" in log(folder)
    epochs = [" ".join(line.split()[:3]) for line in log(folder).splitlines() if " epoch " in line]
    assert len(epochs) == len(set(epochs)), "none was trained twice, and each was said by one process"

    whole, undisturbed = quick_run(tmp_path / "whole", *settings)
    ((path, record),) = records(tmp_path)
    assert_same_tensors(path.parent, undisturbed)
    values, wanted = lasting(record), lasting(whole)
    assert {**values, "config": None} == {**wanted, "config": None}
