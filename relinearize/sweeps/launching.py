"""The process that starts a multirun: it leaves the list of jobs before the first one runs, and reports at the end."""

import contextlib
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from relinearize.errors import UserError, user_error_behind
from relinearize.records.run import RECORD_FILE
from relinearize.sweeps.arguments import BUDGETS, SWEEP_VARIABLE, quoted
from relinearize.sweeps.files import SWEEP_FILE, SweepFile, job_files
from relinearize.sweeps.heartbeat import Process, alive, beating
from relinearize.sweeps.status import Sweep, print_sweep


class ListJobs(Callback):
    """Hydra calls it (config key hydra.callbacks) once it knows that the command is a multirun, before any job."""

    # Of the class, for `reported` in the same process: Hydra makes the instance, and sends copies of it to the workers.
    watched = False
    folder: Path | None = None
    heartbeat = contextlib.ExitStack()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        drop_other_budgets(config)
        if not ListJobs.watched:  # `relinearize count -m`: leaves no runs
            return
        if config.sweep is None:  # hydra.mode in a file
            print("relinearize: error: this is a sweep without a name: add -m, or sweep=NAME", file=sys.stderr)
            sys.exit(1)
        folder = Path(config.hydra.sweep.dir).absolute()
        jobs = listed_jobs(config)
        refuse_running(folder)
        settings = {"hydra.sweep.dir": folder, f"+hydra.job.env_set.{SWEEP_VARIABLE}": config.sweep}
        # For jobs that do not get this command's environment.
        config.hydra.overrides.hydra.extend([f"{key}={quoted(str(value))}" for key, value in settings.items()])
        try:
            forget_unfinished(folder, jobs)
            SweepFile(time.time(), Process.this(), resume_command(config), jobs).write(folder / SWEEP_FILE)
        except OSError as error:  # Hydra would make a warning of it and go on
            print(f"relinearize: error: {user_error_behind(error) or error}", file=sys.stderr)
            sys.exit(1)
        ListJobs.folder = folder
        ListJobs.heartbeat.enter_context(beating(folder / SWEEP_FILE))


def drop_other_budgets(config: DictConfig) -> None:
    """Take the budgets out of an experiment's sweep where the command has some under another of the three keys.

    Hydra replaces equal keys alone, so that each job would have both, and the experiment's would count.
    """
    typed = {argument.partition("=")[0] for argument in config.hydra.overrides.task}
    with open_dict(config.hydra.sweeper):
        for key in BUDGETS if typed & set(BUDGETS) and config.hydra.sweeper.params else ():
            if key not in typed:
                config.hydra.sweeper.params.pop(key, None)


def refuse_running(folder: Path) -> None:
    """End the command where another one that lives has begun a sweep of this name."""
    sweep = SweepFile.read(folder / SWEEP_FILE)
    if sweep and sweep.ended is None and sweep.process != Process.this() and alive(sweep.process, folder / SWEEP_FILE):
        where = f"{sweep.process.place.split()[0]}, process {sweep.process.number}"
        print(f"relinearize: error: sweep={folder.name} is running ({where}): give another name", file=sys.stderr)
        sys.exit(1)


def listed_jobs(config: DictConfig) -> list[list[str]] | None:
    """The overrides of every job, as Hydra's own sweeper makes them; None for sweepers that decide as they go."""
    if not str(config.hydra.sweeper._target_).endswith(f".{BasicSweeper.__name__}"):
        return None
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*parameters, *config.hydra.overrides.task])
    return BasicSweeper.split_arguments(overrides, None)[0]


def forget_unfinished(folder: Path, jobs: list[list[str]] | None) -> None:
    """Jobs of an earlier command of this name that failed or were killed wait again; done and living ones stay.

    Of those that are listed again a file stays, too, with the seconds that they took so far.
    """
    for path, job in job_files(folder).items():
        listed = jobs is not None and job.number < len(jobs) and job.overrides == jobs[job.number]
        living = job.state == "running" and alive(job.process, path)
        if not living and not (listed and job.state == "done"):
            if listed:
                replace(job, state="waiting", seconds=job.taken(path), error=None).write(path)
            else:
                path.unlink(missing_ok=True)
            path.with_name(RECORD_FILE).unlink(missing_ok=True)  # of a job that had this number before


def forget_sweep(folder: Path) -> None:
    """Remove what was left before the first job: OUTPUT/sweeps/NAME, of these the folders that hold nothing else."""
    for name in (SWEEP_FILE, "multirun.yaml"):  # the second is Hydra's
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for place in (folder, *folder.parents[:2]):
            if place != Path.cwd():
                place.rmdir()


def resume_command(config: DictConfig) -> str:
    """What was typed; with the sweep's name where the clock gave it, so that the states go on in the same folder."""
    arguments = sys.argv[1:]
    if config.sweep == os.environ.get(SWEEP_VARIABLE) and not any(word.startswith("sweep=") for word in arguments):
        arguments = [*arguments, f"sweep={config.sweep}"]
    return f"relinearize run {shlex.join(arguments)}"


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Around a command that may be a multirun: then, however it ends, the table of its jobs is printed.

    Raises UserError, hence exit status 1, if not all are done. SIGTERM ends the command like Ctrl-C: launchers then end
    the processes that they have started here, and a network in training is saved.
    """
    ListJobs.watched, ListJobs.folder = True, None
    problem = ""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (HydraException, OmegaConfBaseException):  # jobs that cannot be composed: there is no such sweep
        if ListJobs.folder and not job_files(ListJobs.folder):
            forget_sweep(ListJobs.folder)
            ListJobs.folder = None
        raise
    except Exception as error:
        problem = submitit_problem(error)
        if not problem:
            raise
    finally:
        signal.signal(signal.SIGTERM, before)
        ListJobs.watched = False
        ListJobs.heartbeat.close()
        sweep = finish_sweep(ListJobs.folder) if ListJobs.folder else None
    if sweep and (missed := [row for row in sweep.rows if row.state != "done"]):
        failed = [f"job {row.number}: {row.error}" for row in missed if row.state == "failed"][:1]
        going = ["the others go on: relinearize status"] if sweep.counts["running"] else []
        count = f"{len(missed)} of {len(sweep.rows)} runs are not done"
        raise UserError("; ".join([count, *failed, *([problem] if problem else []), *going]))
    if problem:
        raise UserError(problem)


def submitit_problem(error: Exception) -> str:
    """In one line why Slurm took no jobs. Empty for errors that are not submitit's."""
    raised = list(traceback.walk_tb(error.__traceback__))[-1][0]
    return " ".join(str(error).split()) if raised.f_globals["__name__"].startswith("submitit.") else ""


def finish_sweep(folder: Path) -> Sweep:
    """The sweep, its end noted and its table printed."""
    if file := SweepFile.read(folder / SWEEP_FILE):
        file.ended = time.time()
        file.write(folder / SWEEP_FILE)
    sweep = Sweep.read(folder)
    print_sweep(sweep)
    return sweep
