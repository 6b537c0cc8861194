"""Launchers that start processes of their own: kills, failures, states, of runs that only wait.

Real training under them: tests/cli/test_command_line.py, a sweep that finds the user's classes.
"""

import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import gone
from quick_runs import shell

from hydra_plugins.relinearize_submitit import WaitForAll
from relinearize.sweeps.files import job_files
from relinearize.sweeps.status import Sweep

LAUNCHERS = {
    "joblib": ["launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["launcher=submitit_local", "hydra.launcher.timeout_min=20"],
}


@contextlib.contextmanager
def waiting_runs(tmp_path, launcher, seeds):
    """The command of a sweep, once all its runs have begun."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    count = len(seeds.split(","))
    at_once = [f"hydra.launcher.n_jobs={count}"] if launcher == "joblib" else []
    typed = [
        sys.executable, str(Path(__file__).parents[1] / "helpers" / "waiting_runs.py"), "run", "-m",
        f"seed={seeds}", "sweep=mine", f"output={tmp_path}", *LAUNCHERS[launcher], *at_once,
    ]  # fmt: skip
    process = subprocess.Popen(
        typed, env={**os.environ, "COLUMNS": "200"}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_for(lambda: len(list(tmp_path.glob("begun-*"))) == count, process)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition, process):
    limit = time.monotonic() + 200
    while not condition():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)


def workers(folder):
    """Job -> its process."""
    return {job.number: job.process.number for job in job_files(folder).values()}


def all_end(folder):
    """On a busy machine they take a moment after the command's end."""
    assert gone(workers(folder).values())


def states(folder):
    return [row.state for row in Sweep.read(folder).rows]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_sweep_whose_command_is_killed_goes_on_under_any_launcher(tmp_path, launcher, typed):
    folder = tmp_path / "sweeps" / "mine"
    with waiting_runs(tmp_path, launcher, "0,1") as process:
        assert Sweep.read(folder).launching and states(folder) == ["running", "running"]
        process.kill()
        process.wait()
        if launcher == "joblib":
            all_end(folder)  # its workers with it, by themselves
    all_end(folder)
    assert not Sweep.read(folder).launching and states(folder) == ["killed", "killed"]

    (tmp_path / "go").touch()
    done = shell(process.args)
    assert done.returncode == 0 and "2 done" in done.stdout, done.stdout + done.stderr
    assert states(folder) == ["done", "done"]
    status, shown, _ = typed("status", folder)
    assert status == 0 and "2 done" in shown


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_failed_run_leaves_the_others_and_is_reported_at_the_end(tmp_path, launcher):
    folder = tmp_path / "sweeps" / "mine"
    with waiting_runs(tmp_path, launcher, "13,1,2") as process:
        wait_for(lambda: states(folder) == ["failed", "running", "running"], process)
        (tmp_path / "go").touch()
        out, err = process.communicate(timeout=200)
    assert process.returncode == 1 and "2 done, 1 failed" in out, out + err
    assert states(folder) == ["failed", "done", "done"]
    assert err.splitlines()[-1] == (
        "relinearize: error: 1 of 3 runs are not done; job 0: ZeroDivisionError: by seed 13"
    )  # fmt: skip
    if launcher == "submitit":  # for Slurm's accounting the job has failed, too
        ends = [pickle.loads(path.read_bytes())[0] for path in sorted(folder.glob(".submitit/*/*_result.pkl"))]
        assert sorted(ends) == ["error", "success", "success"]


def test_an_interrupted_command_says_that_its_jobs_on_a_cluster_go_on(monkeypatch):
    """Typed again it would queue them all a second time."""

    def interrupted():
        raise KeyboardInterrupt

    launcher = object.__new__(WaitForAll)
    jobs = [SimpleNamespace(job_id=f"7_{number}", results=interrupted) for number in (0, 1)]
    monkeypatch.setattr(launcher, "submit", lambda *_: jobs, raising=False)
    with pytest.raises(KeyboardInterrupt, match=r"its jobs go on \(`relinearize status`\); to end them: scancel 7$"):
        launcher.launch([["seed=0"], ["seed=1"]], 0)


@pytest.mark.slow
def test_lost_job_is_reported_at_the_end_and_a_preempted_one_runs_again(tmp_path):
    folder = tmp_path / "sweeps" / "mine"
    with waiting_runs(tmp_path, "submitit", "0,1,2") as process:
        os.kill(workers(folder)[0], signal.SIGKILL)
        os.kill(workers(folder)[1], signal.SIGUSR2)
        wait_for(lambda: states(folder)[1] == "waiting", process)
        wait_for(lambda: states(folder)[1:] == ["running", "running"], process)
        wait_for(lambda: (tmp_path / "begun-1").read_text() == 2 * "once more\n", process)
        (tmp_path / "go").touch()
        out, err = process.communicate(timeout=200)
    assert process.returncode == 1 and "2 done, 1 failed" in out, out + err
    assert states(folder) == ["failed", "done", "done"]
    last = err.splitlines()[-1]
    assert re.fullmatch(
        r"relinearize: error: 1 of 3 runs are not done; job 0: job \d+ ended without a result \(state FINISHED\); "
        rf"its log: {folder}/.submitit/\d+/\d+_0_log.err",
        last,
    ), err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=["TERM", "INT"]
)
@pytest.mark.parametrize(("launcher", "state"), [("joblib", "killed"), ("submitit", "stopped")])
def test_command_that_is_ended_ends_its_processes(tmp_path, launcher, state, number):
    folder = tmp_path / "sweeps" / "mine"
    with waiting_runs(tmp_path, launcher, "0,1") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 130 and "goes on from the last checkpoint" in err.splitlines()[-1], err
        assert states(folder) == 2 * [state]
        all_end(folder)


def test_interrupt_while_jobs_are_submitted_ends_those_that_run(monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from hydra_plugins.relinearize_submitit import LocalWaitForAll

    launcher, ended = object.__new__(LocalWaitForAll), []

    def submit(overrides, first):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        return ["first", "second"]

    monkeypatch.setattr(launcher, "submit", submit)
    monkeypatch.setattr(launcher, "abandon", ended.extend)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        launcher.launch([["seed=0"], ["seed=1"]], 0)
    assert ended == ["first", "second"] and signal.getsignal(signal.SIGTERM) is before


# ---- errors ----------------------------------------------------------------------------------------------------------


NOT_INSTALLED = """
import sys
from relinearize import cli
sys.modules["hydra_plugins"] = None
for launcher in ("joblib", "slurm", "ray"):
    sys.argv = ["relinearize", "run", "-m", f"launcher={launcher}", sys.argv[-1]]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 1
    else:
        raise AssertionError(launcher)
"""


def test_launcher_that_is_not_installed_is_named_with_its_remedy(tmp_path):
    """In a process of its own, for here the plugins are found already."""
    done = shell([sys.executable, "-c", NOT_INSTALLED, f"output={tmp_path}"])
    assert done.returncode == 0, done.stderr
    plugins = {"joblib": "launchers", "submitit_slurm": "launchers", "ray": "ray"}
    assert done.stderr.splitlines() == [
        f"relinearize: error: the launcher {plugin} is not installed; it comes with pip install -e '.[{extra}]'"
        for plugin, extra in plugins.items()
    ]


def error_of(typed, *arguments):
    """The one line that the command leaves on standard error."""
    status, _, err = typed("run", *arguments)
    assert status == 1 and err.count("\n") == 1, err
    return err.removeprefix("relinearize: error: ").strip()


def test_launcher_of_a_single_run_asks_for_a_sweep(tmp_path, typed):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    assert "add -m" in error_of(typed, "launcher=joblib", f"output={tmp_path}")


def test_machine_without_slurm_is_one_line(tmp_path, monkeypatch, typed):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", str(tmp_path))
    error = error_of(typed, "-m", "seed=0,1", "launcher=slurm", f"output={tmp_path}")
    assert error.startswith("2 of 2 runs are not done; ") and "srun" in error


@pytest.mark.slow
def test_jobs_of_joblib_share_the_cores(tmp_path, monkeypatch):
    joblib = pytest.importorskip("joblib")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with waiting_runs(tmp_path, "joblib", "0,1") as process:
        share = str(max(1, joblib.cpu_count() // 2))
        assert [(tmp_path / f"threads-{seed}").read_text() for seed in (0, 1)] == [share, share]
        (tmp_path / "go").touch()
        process.communicate(timeout=200)


def test_jobs_that_begin_together_share_the_cores(monkeypatch):
    plugin = pytest.importorskip("hydra_plugins.relinearize_submitit")
    pytest.importorskip("submitit")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launcher, submit = object.__new__(plugin.LocalWaitForAll), plugin.LocalWaitForAll.submit
    monkeypatch.setattr(plugin, "usable_cores", lambda: 8)
    monkeypatch.setattr(plugin.WaitForAll, "submit", lambda *arguments: os.environ["OMP_NUM_THREADS"])
    assert submit(launcher, [["seed=0"], ["seed=1"], ["seed=2"]], 0) == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert submit(launcher, [["seed=0"]], 0) == "5"
