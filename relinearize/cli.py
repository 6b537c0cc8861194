"""The command line: `relinearize run | status | report | count | evaluate | export | infer`.

Imports Hydra and nothing heavier: launchers import this module in every worker, and `--cfg job` must answer at once.
"""

import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from relinearize.conf_folder import conf_folder
from relinearize.errors import UserError, user_error_behind
from relinearize.sweeps.arguments import MULTIRUN, name_sweep, with_budget_grid

USAGE = """\
usage: relinearize COMMAND ...

  run [KEY=VALUE ...]         train, search, fine-tune and test one linearized network; -m for one per combination
  status [SWEEP]              the runs of a sweep, by its name or folder: done, running, failed, waiting; times and ETA
  report FOLDER ...           pareto.csv, pareto.png, report.html and masks.png from all runs below the folders, also
                              against the cost of private inference that preset=NAME [network=NAME] predicts, and the
                              inferences measured; out=FOLDER says where to; with published=false without the papers'
                              points; with --against-paper also each run beside the paper's number for it; with
                              logger=wandb [logger.mode=offline ...] in W&B, too
  count [backbone=...]        the ReLUs of a network, site by site, in both conventions
  evaluate run=FOLDER         test a finished run's network again, from its files; with evaluation=robust under attacks
                              and corruptions
  export run=FOLDER           the network as a bundle for engines of private inference; onnx=true as ONNX, too
  cost run=FOLDER             what private inference with it costs, predicted: time, bytes, messages
  infer bundle=FOLDER         the bundle's network on its images, under real two-party computation; latency and bytes
  --version

`relinearize run --help` lists the config groups, `relinearize run --cfg job` prints the config;
`relinearize evaluate --help` prints the keys of an evaluation."""


# Hydra's names of those launchers that are packages of their own, and the extra that each is in.
LAUNCHER_PLUGINS = {"joblib": "launchers", "submitit_local": "launchers", "submitit_slurm": "launchers", "ray": "ray"}


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def run_job(config: DictConfig) -> float:
    """One run. Returns its test accuracy, which Hydra's sweepers can maximise."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from relinearize.sweeps.tracked import tracked

        return tracked(make_run, config)
    launcher = HydraConfig.get().runtime.choices.get("launcher")
    if launcher not in ("basic", None):  # Hydra would say nothing and run it here
        fail(f"launcher={launcher} starts the runs of a sweep: add -m, also for a single run")
    return make_run(config)[0].accuracy.test


def make_run(config: DictConfig) -> tuple[Any, Path]:
    """Make or find the run and print it. Returns its record and its folder."""
    from relinearize.commands import run as job
    from relinearize.records.run import find_records
    from relinearize.report.tables.terminal import print_runs

    record, folder = one_line_errors(job.run_job, config)
    print_runs([found for _, found in find_records([folder])])  # with its sub-models, if it has any
    print(folder / "record.json", flush=True)
    return record, folder


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def count_job(config: DictConfig) -> None:
    from relinearize.commands.count import show_counts

    one_line_errors(show_counts, config)


def one_line_errors(task: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """`task(config)`; outside a sweep a user's error ends the program here, before Hydra adds a line of its own.

    In a sweep it is raised: the job is noted as failed and the others go on.
    """
    try:
        missing = sorted(missing_keys(OmegaConf.to_container(config, resolve=False)))
        if missing:
            raise UserError(f"{' and '.join(missing)} must be given (key=value)")
        return task(config)
    except Exception as error:
        cause = user_error_behind(error)
        if cause is None or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        fail(str(cause))


def missing_keys(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys that the config leaves to the user (`???`); those that only refer to such a key are not named."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from missing_keys(value, f"{prefix}{key}.")
        elif value == "???":
            yield f"{prefix}{key}"


def run(arguments: list[str]) -> None:
    # argparse, below Hydra, takes no overrides on both sides of a flag; behind the flags they are always fine.
    flags_first = sorted(arguments, key=lambda argument: argument not in MULTIRUN)
    name_sweep(arguments)
    sys.argv = ["relinearize run", *with_budget_grid(flags_first)]
    from relinearize.sweeps.launching import reported

    with reported():
        run_job()


def count(arguments: list[str]) -> None:
    sys.argv = ["relinearize count", *arguments]
    count_job()


def evaluate(arguments: list[str]) -> None:
    if set(arguments) & {"-h", "--help"}:
        from relinearize.evaluation.options import help_text

        print(help_text())
        return
    from relinearize.commands.evaluate import evaluate_run

    evaluate_run(arguments)


def in_commands(name: str) -> Callable[[list[str]], Any]:
    """The command in relinearize/commands/NAME.py, imported when it is called."""
    return lambda arguments: import_module(f"relinearize.commands.{name}").main(arguments)


COMMANDS = {
    "run": run,
    "status": in_commands("status"),
    "report": in_commands("report"),
    "count": count,
    "evaluate": evaluate,
    "export": in_commands("export"),
    "cost": in_commands("cost"),
    "infer": in_commands("infer"),
}


def main() -> None:
    """Entry point. Errors of the user are one line on standard error and exit status 1."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from importlib.metadata import version

        print(f"relinearize {version('relinearize')}")
        return
    if not arguments or arguments[0] not in COMMANDS:
        wanted = bool(arguments) and arguments[0] not in ("-h", "--help")
        print(USAGE, file=sys.stderr if wanted or not arguments else sys.stdout)
        if wanted:
            print(
                f"\nrelinearize: error: unknown command {arguments[0]}; valid: {', '.join(COMMANDS)}", file=sys.stderr
            )
        sys.exit(2 if wanted or not arguments else 0)
    # Hydra would print its own shortened traceback; with this it raises and the lines below decide.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A user's own backbones and methods are found from where the command is typed, as with `python -m`.
    sys.path.insert(0, os.getcwd())
    try:
        COMMANDS[arguments[0]](arguments[1:])
        sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        cause = user_error_behind(error)
        fail(str(cause) if cause else explained(error))
    except KeyboardInterrupt:
        print("relinearize: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not reader_left():
            traceback.print_exc()
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def reader_left() -> bool:
    """Whether nobody reads standard output any more (`| head`): no error of ours. What is left of it goes nowhere."""
    output = select.poll()
    output.register(sys.stdout, select.POLLOUT)
    left = any(event & select.POLLERR for _, event in output.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
    return left


def explained(error: Exception) -> str:
    """Hydra's message in one line; for an unknown key with the groups and keys that exist at the top."""
    message = " ".join(str(error).split())
    if isinstance(error, MissingConfigException):
        folder, _, name = str(error.missing_cfg_file).rpartition("/")
        if folder == "hydra/launcher" and name in LAUNCHER_PLUGINS:
            extra = LAUNCHER_PLUGINS[name]
            return f"the launcher {name} is not installed; it comes with pip install 'relinearize[{extra}]'"
    if "Could not override" not in message:
        return message
    groups = sorted(folder.name for folder in conf_folder().iterdir() if folder.is_dir())
    return f"{message}; groups: {', '.join(groups)}; all keys: relinearize run --cfg job"


def fail(message: str) -> None:
    print(f"relinearize: error: {message}", file=sys.stderr)
    sys.exit(1)
