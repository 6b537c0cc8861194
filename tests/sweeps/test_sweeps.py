"""Sweeps of jobs that take no time: their list, states, report and continuation, in real processes where it matters."""

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from processes import LIMIT

from relinearize import cli
from relinearize.commands import run
from relinearize.errors import UserError, one_line
from relinearize.sweeps import heartbeat
from relinearize.sweeps.arguments import SWEEP_VARIABLE, name_sweep
from relinearize.sweeps.files import JOB_FILE, SWEEP_FILE, JobFile, SweepFile, job_files
from relinearize.sweeps.heartbeat import Process, alive, beating
from relinearize.sweeps.jobs import note_lost, note_waiting
from relinearize.sweeps.launching import ListJobs
from relinearize.sweeps.status import Sweep, find_sweep, print_sweep, summary
from relinearize.terminal import duration

FORK = multiprocessing.get_context("fork")  # spares a child the imports; a kill is as real
SEEDS = ["-m", "seed=0,1,2,3", "sweep=mine"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.delenv(SWEEP_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    config = OmegaConf.load(cli.conf_folder() / "config.yaml")
    config.defaults = [entry for entry in config.defaults if entry == "_self_" or "override" in str(entry)]
    OmegaConf.save(config, tmp_path / "small.yaml")
    return tmp_path


def sweep(monkeypatch, job, *arguments, whole_config=False):
    """(exit status, seeds of the jobs that began) of `relinearize run`, each job being `job(seed)`: its accuracy.

    Without config groups, whose composing takes most of the time, unless `whole_config`.
    """
    begun = []
    if not whole_config:
        flags = [word for word in arguments if word == "-m"]
        small = ["--config-path", os.getcwd(), "--config-name", "small"]
        arguments = [*flags, *small, *arguments[len(flags) :]]

    def make_run(config):
        begun.append(config.seed)
        accuracy = job(config.seed)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return SimpleNamespace(accuracy=SimpleNamespace(test=accuracy, objective=accuracy), created=created), "a folder"

    monkeypatch.setattr(run, "make_run", make_run)
    monkeypatch.setattr(sys, "argv", ["relinearize", "run", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return end.code, begun
    return 0, begun


def states(folder="outputs/sweeps/mine"):
    return [row.state for row in Sweep.read(find_sweep(folder)).rows]


def failing(seed):
    if seed == 1:
        raise UserError("seed 1 brings bad luck")
    if seed == 2:
        raise ZeroDivisionError("by [zero]")
    return 60.0 + seed


def status_command(*arguments):
    program = "import sys; from relinearize.cli import main; main(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program, "status", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("batches", [[], ["hydra.sweeper.max_batch_size=1"]], ids=["at once", "in batches"])
def test_failed_jobs_stop_no_others_and_are_reported_at_the_end(monkeypatch, capsys, batches):
    code, begun = sweep(monkeypatch, failing, *SEEDS, *batches)
    assert code == 1 and begun == [0, 1, 2, 3]
    assert states() == ["done", "failed", "failed", "done"]
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.splitlines() if "seed=" in line}
    assert "seed=0" in rows["0"] and "60.00" in rows["0"] and "sweep=mine" not in rows["0"]
    assert "failed" in rows["1"] and "seed 1 brings bad luck" in rows["1"]
    assert "ZeroDivisionError: by [zero]" in rows["2"]
    assert "2 done, 2 failed" in out
    assert err.count("Traceback") == 1, "one for the program's own error, none for the user's"
    assert "job 1 failed: seed 1 brings bad luck" in err
    assert err.splitlines()[-1] == (
        "relinearize: error: 2 of 4 runs are not done; job 1: seed 1 brings bad luck"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("experiment", "budget"),
    [
        ("paper/senet_cifar100_resnet18", "budget=50k"),
        ("sweep/pareto", "budget.relus=50000"),
        ("sweep/frontier", "budget=50k"),
    ],
)
def test_a_budget_that_is_typed_replaces_those_of_an_experiment_under_any_key(monkeypatch, experiment, budget):
    words = [
        "-m",
        f"experiment={experiment}",
        budget,
        "method=snl",
        "method/teacher=classifier",
        "seed=3",
        "sweep=mine",
    ]
    assert sweep(monkeypatch, float, "-m", *words, whole_config=True) == (0, [3])
    (job,) = SweepFile.read(find_sweep("mine") / SWEEP_FILE).jobs
    assert [word for word in job if word.startswith("budget") and "grid" not in word] == [budget]


def test_a_sweep_without_failures_ends_with_status_0(monkeypatch, capsys):
    assert sweep(monkeypatch, float, *SEEDS) == (0, [0, 1, 2, 3])
    assert "4 done\n" in capsys.readouterr().out


def test_status_shows_waiting_jobs_while_another_process_runs_the_sweep(monkeypatch):
    seen = {}

    def look(seed):
        if seed == 2:
            seen["status"] = status_command()
        return failing(0 if seed == 2 else seed)

    sweep(monkeypatch, look, *SEEDS)
    code, out, err = seen["status"]
    assert code == 0, err
    assert re.search(r"1 done, 1 running, 1 failed, 1 waiting; ETA \d+ s", out), out
    assert "seed 1 brings bad luck" in out


def die(job, killed):
    """A sweep in a child that dies by SIGKILL in the job with the seed `killed`."""

    def run():
        monkeypatch = pytest.MonkeyPatch()
        sweep(monkeypatch, lambda seed: job(seed) if seed != killed else os.kill(os.getpid(), signal.SIGKILL), *SEEDS)

    process = FORK.Process(target=run)
    process.start()
    process.join(LIMIT)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_sweep_is_told_from_a_running_one_and_goes_on_by_the_same_command(monkeypatch):
    die(failing, killed=2)
    assert states() == ["done", "failed", "killed", "waiting"]
    code, out, _ = status_command("mine")
    assert code == 0 and "1 done, 1 failed, 1 killed, 1 waiting; ETA -" in out
    assert "nothing is running; go on with: relinearize run -m " in out and out.endswith(" seed=0,1,2,3 sweep=mine\n")

    seen = []
    code, begun = sweep(monkeypatch, lambda seed: seen.append(states()) or float(seed), *SEEDS)
    assert code == 0 and begun == [0, 1, 2, 3]  # those done answer from the store
    assert seen[0] == ["running", "waiting", "waiting", "waiting"]
    assert states() == 4 * ["done"]


def test_the_name_of_a_running_sweep_is_refused(monkeypatch, place, capsys):
    def run():
        sweep(pytest.MonkeyPatch(), lambda seed: (place / "begun").touch() or time.sleep(LIMIT), *SEEDS)

    process = FORK.Process(target=run)
    process.start()
    try:
        limit = time.monotonic() + LIMIT
        while not (place / "begun").exists():
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert sweep(monkeypatch, float, *SEEDS) == (1, [])
        assert f"sweep=mine is running ({socket.gethostname()}, process {process.pid}): " in capsys.readouterr().err
        assert sweep(monkeypatch, float, "-m", "seed=0,1", "sweep=another")[0] == 0
    finally:
        process.kill()
        process.join()
    assert sweep(monkeypatch, float, *SEEDS)[0] == 0


def test_sweeps_of_one_second_have_names_of_their_own(monkeypatch):
    names = set()
    for _ in range(20):
        monkeypatch.delenv(SWEEP_VARIABLE, raising=False)
        name_sweep(["-m"])
        names.add(os.environ[SWEEP_VARIABLE])
    assert len(names) == 20


@pytest.mark.slow
def test_run_found_finished_keeps_the_time_it_took_and_says_nothing_of_the_others(monkeypatch):
    sweep(monkeypatch, float, *SEEDS)
    (path, job), *_ = job_files(find_sweep("mine")).items()
    job.seconds = 3600.0
    job.write(path)
    monkeypatch.setattr(time, "time", lambda real=time.time: real() + 10)
    sweep(monkeypatch, float, *SEEDS)
    assert Sweep.read(find_sweep("mine")).rows[0].seconds == 3600
    sweep(monkeypatch, float, "-m", "seed=0,1", "sweep=other")
    row = Sweep.read(find_sweep("other")).rows[0]
    assert row.found and row.state == "done"


@pytest.mark.parametrize("subdir", ["${seed}/of/mine", "all"])
def test_states_lie_by_number_whatever_the_subdir_of_a_job(monkeypatch, place, subdir):
    """Below a folder of its own, or in one with others."""
    assert sweep(monkeypatch, float, *SEEDS, f"hydra.sweep.subdir={subdir}")[0] == 0
    assert states() == 4 * ["done"]
    folder = place / "outputs" / "sweeps" / "mine"
    assert [path.parent for path in job_files(folder)] == [folder / str(number) for number in range(4)]


def test_the_seconds_of_all_legs_count(monkeypatch, place):
    def stop(seed):
        note_waiting()
        raise KeyboardInterrupt

    folder = place / "outputs" / "sweeps" / "mine"
    sweep(monkeypatch, stop, *SEEDS)
    path = folder / "0" / JOB_FILE
    job = JobFile.read(path)
    assert job.state == "waiting" and 0 < job.seconds < LIMIT
    job.seconds = 3600.0
    job.write(path)
    sweep(monkeypatch, stop, *SEEDS)
    assert 3600 < JobFile.read(path).seconds < 3600 + LIMIT
    job.state, job.process, job.started = "running", ELSEWHERE, 1000.0
    job.write(path)
    os.utime(path, (1100.0, 1100.0))  # its last heartbeat
    assert [(row.state, row.seconds) for row in Sweep.read(folder).rows[:2]] == [("killed", 3700), ("waiting", None)]
    assert sweep(monkeypatch, float, *SEEDS)[0] == 0
    row, *_ = Sweep.read(folder).rows
    assert row.state == "done" and 3700 < row.seconds < 3700 + LIMIT
    other = JobFile(1000.0, ELSEWHERE, 0, ["seed=7"], "failed", 50.0)
    other.write(path)
    sweep(monkeypatch, float, *SEEDS)
    assert JobFile.read(path).seconds < 50, "another job's"


def test_a_lost_job_keeps_its_seconds(place):
    path = place / "0" / JOB_FILE
    JobFile(1000.0, ELSEWHERE, 0, ["seed=0"], seconds=30.0).write(path)
    os.utime(path, (1100.0, 1100.0))
    note_lost(place, 0, ["seed=0"], "out of memory")
    note_lost(place, 1, ["seed=1"], "cancelled")
    assert [(job.state, job.seconds) for job in job_files(place).values()] == [("failed", 130), ("failed", None)]


def test_interrupted_sweep_is_stopped(monkeypatch, capsys):
    def interrupt(seed):
        if seed == 1:
            raise KeyboardInterrupt
        return 1.0

    code, _ = sweep(monkeypatch, interrupt, *SEEDS)
    assert code == 130
    assert states() == ["done", "stopped", "waiting", "waiting"]
    assert "goes on from the last checkpoint" in capsys.readouterr().err.splitlines()[-1]


def test_other_jobs_under_an_old_name_begin_anew(monkeypatch):
    sweep(monkeypatch, float, *SEEDS)
    seen = []
    sweep(monkeypatch, lambda seed: seen.append(states()) or 1.0, "-m", "seed=0,7", "sweep=mine")
    assert seen == [["running", "waiting"], ["done", "running"]]


def test_records_of_jobs_that_had_the_number_before_are_no_results_of_the_new_ones(monkeypatch, place):
    sweep(monkeypatch, float, *SEEDS)
    folders = [path.parent for path in job_files(place / "outputs/sweeps/mine")]
    for folder in folders:
        (folder / "record.json").write_text("{}")
    sweep(monkeypatch, failing, "-m", "seed=0,2", "sweep=mine")
    assert [(folder / "record.json").is_file() for folder in folders] == [True, False, False, False]


@pytest.mark.slow
def test_experiment_that_brings_its_own_sweep_is_listed(monkeypatch):
    seen = []
    fewer = "budget.fraction=0.5,0.25"  # than its five, with its two methods

    def look(seed):
        seen.append(states("demo"))
        return 1.0

    sweep(monkeypatch, look, "-m", "experiment=demo", fewer, whole_config=True)
    assert seen[0] == ["running", *3 * ["waiting"]]
    assert find_sweep(None).parts[-4:] == ("outputs", "demo", "sweeps", "demo")


def test_sweep_named_by_the_clock_goes_on_under_its_name(monkeypatch):
    sweep(monkeypatch, float, "-m", "seed=0,1")
    folder = find_sweep(None)
    assert Sweep.read(folder).command.endswith(f" seed=0,1 sweep={folder.name}")


def test_jobs_without_the_environment_of_the_command_know_their_sweep(monkeypatch, place):
    start = ListJobs.on_multirun_start

    def alone(self, config, **further):
        start(self, config, **further)
        monkeypatch.delenv(SWEEP_VARIABLE)

    monkeypatch.setattr(ListJobs, "on_multirun_start", alone)
    assert sweep(monkeypatch, lambda seed: 90.0, "-m", "seed=0,1") == (0, [0, 1])
    counts = {folder.name: len(job_files(folder)) for folder in (place / "outputs" / "sweeps").iterdir()}
    assert counts.pop("None", 0) == 0 and list(counts.values()) == [2], "Hydra's launcher is in this process"


def test_a_sweep_by_hydras_mode_is_one(monkeypatch, place):
    assert sweep(monkeypatch, lambda seed: 90.0, "hydra.mode=MULTIRUN", "seed=0,1") == (0, [0, 1])
    (folder,) = (place / "outputs" / "sweeps").iterdir()
    assert folder.name != "None"


def test_a_single_run_is_no_sweep(monkeypatch, capsys, place):
    code, begun = sweep(monkeypatch, float, "seed=5")
    assert code == 0 and begun == [5] and not capsys.readouterr().out
    assert not list(place.rglob("*.json"))


# ---- from files alone ----------------------------------------------------------------------------------------------

ELSEWHERE = Process("another-node", 1)


def fake_sweep(folder, jobs, *files, begun=0.0):
    SweepFile(begun, ELSEWHERE, "relinearize run -m", jobs, ended=begun).write(folder / SWEEP_FILE)
    for file in files:
        file.write(folder / str(file.number) / JOB_FILE)
    return folder


def test_job_on_another_node_lives_as_long_as_its_file_is_touched(place):
    folder = fake_sweep(place / "far", [["seed=0"]], JobFile(time.time() - 100, ELSEWHERE, 0, ["seed=0"]))
    (row,) = Sweep.read(folder).rows
    assert row.state == "running" and 99 < row.seconds < 100 + LIMIT
    old = time.time() - 2 * heartbeat.SILENCE
    os.utime(folder / "0" / JOB_FILE, (old, old))
    assert states(folder) == ["killed"]


def test_an_error_in_colours_is_read_back(tmp_path):
    """As compilers print them. A file with control characters is not read, and its job would be waiting for ever."""
    error = one_line(RuntimeError("\x1b[31mred\x1b[0m\x07\nflag"))
    JobFile(0.0, ELSEWHERE, 0, [], "failed", 1.0, error=error).write(tmp_path / JOB_FILE)
    assert JobFile.read(tmp_path / JOB_FILE).error == "RuntimeError: red flag"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_kills_no_job(place, monkeypatch, hours):
    """On this machine no clock is asked; of another's jobs the clock of the file system."""
    real, (far, near) = time.time, (place / "far", place / "near")
    this = Process.this()
    fake_sweep(far, [["seed=0"]], JobFile(real(), ELSEWHERE, 0, ["seed=0"]))
    fake_sweep(near, [["seed=0"]], JobFile(real(), this, 0, ["seed=0"]))
    old = real() - 2 * heartbeat.SILENCE
    os.utime(near / "0" / JOB_FILE, (old, old))
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    assert states(far) == states(near) == ["running"]
    (row,) = Sweep.read(near).rows
    assert row.seconds >= 0
    for dead in (Process(this.place, this.number, this.begun + 1), Process(this.place, 2**22 + 1, this.begun)):
        fake_sweep(near, [["seed=0"]], JobFile(real(), dead, 0, ["seed=0"]))
        assert states(near) == ["killed"]


def test_heartbeat_touches_the_file_and_ends_with_the_work(place, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT", 0.01)
    path = place / "file"
    path.touch()
    os.utime(path, (0, 0))
    assert not alive(ELSEWHERE, path)
    with contextlib.suppress(RuntimeError), beating(path):
        for _ in range(500):
            time.sleep(0.01)
            if alive(ELSEWHERE, path):
                break
        else:
            pytest.fail("never touched")
        path.unlink()  # a disk that goes away is no reason to stop the work
        time.sleep(0.05)
        raise RuntimeError
    path.touch()
    os.utime(path, (0, 0))
    time.sleep(0.05)
    assert not alive(ELSEWHERE, path)


def test_eta_is_the_mean_time_of_done_runs_times_those_left_over_those_running(place):
    def rows(*states):
        return Sweep(place, "", True, [JobFile(0.0, ELSEWHERE, 0, [], *state) for state in states])

    done, found = [("done", 100, False), ("done", 300, False)], ("done", 2, True)
    running, waiting, failed = ("running", 50, False), ("waiting", None, False), ("failed", 9, False)
    assert rows(*done, found, failed, running, running, waiting).remaining == 200 * 3 / 2
    assert rows(found, running, waiting).remaining is None
    assert rows(*done, waiting).remaining is None
    assert summary(rows(found, running, waiting)) == ["1 done, 1 running, 1 waiting; ETA -"]
    assert summary(rows(*done, failed)) == ["2 done, 1 failed"]


@pytest.mark.parametrize("state", ["killed", "waiting", "stopped"])
def test_jobs_may_be_in_slurms_queue(place, state):
    """Killed ones, too: those of nodes that failed, Slurm itself queues again."""
    rows = [JobFile(0.0, ELSEWHERE, 0, [], "done", 1.0), JobFile(0.0, ELSEWHERE, 1, [], state)]
    for launcher in ("slurm", "joblib"):
        line = summary(Sweep(place, f"relinearize run -m launcher={launcher}", False, rows))[1]
        assert ("squeue" in line) == (launcher == "slurm" and state != "stopped")


def test_durations_are_short():
    assert [duration(seconds) for seconds in (0.2, 59.4, 60, 3599.9, 7500, 90000)] == [
        "0 s", "59 s", "1 min 0 s", "1 h 0 min", "2 h 5 min", "1 d 1 h",
    ]  # fmt: skip


def test_sweeps_are_found_by_name_folder_or_age(place):
    first = fake_sweep(place / "outputs/sweeps/first", [["seed=0"]], begun=2.0)
    fake_sweep(place / "outputs/demo/sweeps/demo", [["seed=0"]], begun=1.0)
    far = fake_sweep(place / "elsewhere", [["seed=0"]], begun=3.0)
    assert find_sweep(None) == find_sweep("first") == first.relative_to(place)
    assert find_sweep("demo").parts[1] == "demo"
    assert find_sweep(str(far)) == far
    assert find_sweep(str(place / "outputs")) == first
    assert find_sweep(str(place / "outputs/demo")).name == "demo"
    with pytest.raises(UserError) as caught:
        find_sweep("second")
    assert str(caught.value) == (
        "status second: no such sweep; give a sweep's name or folder; "
        "there are: outputs/sweeps/first, outputs/demo/sweeps/demo"
    )
    fake_sweep(place / "outputs/other/sweeps/first", [["seed=0"]])
    with pytest.raises(UserError, match="several sweeps have this name"):
        find_sweep("first")


def test_unknown_sweep_is_one_line_with_status_1(place):
    fake_sweep(place / "outputs/sweeps/first", [["seed=0"]])
    code, out, err = status_command("second")
    assert code == 1 and not out and err.startswith("relinearize: error: status second: no such sweep")
    assert len(err.splitlines()) == 1 and "outputs/sweeps/first" in err
    code, _, err = status_command("first", "second")
    assert code == 1 and "relinearize status [SWEEP]" in err


def test_torn_and_foreign_files_are_no_states(place):
    folder = fake_sweep(place / "torn", [["seed=0"], ["seed=1"], ["seed=2"]])
    for name, text in (("0", "{"), ("1", "[]"), ("2", '{"state": "done", "process": {}}')):
        (folder / name).mkdir()
        (folder / name / JOB_FILE).write_text(text)
    assert states(folder) == 3 * ["waiting"]
    (folder / SWEEP_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"sweep\.json cannot be read"):
        Sweep.read(folder)


def test_without_a_list_each_job_that_has_started_is_shown(place, capsys):
    """Sweepers that choose the next job by the last result (Optuna)."""
    files = [JobFile(0.0, ELSEWHERE, number, [f"seed={number}"], "done", 5.0, accuracy=1.0) for number in (0, 1)]
    print_sweep(Sweep.read(fake_sweep(place / "open", None, *files)))
    assert "2 done" in capsys.readouterr().out
