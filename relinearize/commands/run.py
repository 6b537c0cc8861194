"""`relinearize run`: one run, or with -m a sweep of them, by Hydra's sweeper and launcher."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from relinearize.commands.jobs import application, fail, find_users_modules, one_line_errors, show_help
from relinearize.commands.words import flags_first
from relinearize.conf_folder import conf_folder
from relinearize.progress import say
from relinearize.sweeps.arguments import name_sweep, with_budget_grid


def main(arguments: Sequence[str]) -> None:
    """Do the run or the sweep that `arguments` describe, or find it done."""
    show_help(arguments)
    name_sweep(arguments)
    sys.argv = ["relinearize run", *with_budget_grid(flags_first(arguments))]
    from relinearize.sweeps.launching import reported

    with reported():
        run_job()


@application
def run_job(config: DictConfig) -> float:
    """One run. Returns its accuracy on held-out images (without any: test images), for Hydra's sweepers to maximise."""
    if HydraConfig.get().job.chdir:  # paths stay relative to where the command was typed
        os.chdir(HydraConfig.get().runtime.cwd)
    find_users_modules()  # in a launcher's process, too
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from relinearize.sweeps.jobs import tracked

        return tracked(make_run, config)
    launcher = HydraConfig.get().runtime.choices.get("launcher")
    if launcher not in ("basic", None):  # Hydra would say nothing and run it here
        fail(f"launcher={launcher} starts the runs of a sweep: add -m, also for a single run")
    if swept := OmegaConf.select(HydraConfig.get(), "sweeper.params"):
        say(f"this experiment is a sweep over {', '.join(swept)}: add -m; without it one run is made")
    return make_run(config)[0].accuracy.objective


def make_run(config: DictConfig) -> tuple[Any, Path]:
    """Make or find the run and print it. Returns its record and its folder."""
    from relinearize.records.run import find_records
    from relinearize.report.tables.terminal import print_runs

    record, folder = one_line_errors(run_and_copy, config)
    print_runs([found for _, found in find_records([folder])])  # with its sub-models, if it has any
    print(folder / "record.json", flush=True)
    return record, folder


def run_and_copy(config: DictConfig) -> tuple[Any, Path]:
    """Run, and leave the record in the sweep's folder too. Returns the record and the run's folder."""
    from relinearize.files import write_bytes
    from relinearize.records.run import RECORD_FILE
    from relinearize.runs.recall import recall
    from relinearize.runs.schema import check_unknown

    hydra = HydraConfig.get()
    check_unknown(config, hydra.runtime.choices)
    config.method.name = combination_name(config.method.name, hydra.runtime.choices)
    if not (found := recall(config)):
        from relinearize.runs.pipeline import run  # imports PyTorch

        found = run(config)
    record, folder = found
    if hydra.mode == RunMode.MULTIRUN:
        place = Path(hydra.sweep.dir) / str(hydra.job.num)  # beside the job's state, whatever hydra.sweep.subdir says
        write_bytes(place / RECORD_FILE, (folder / RECORD_FILE).read_bytes())
    return record, folder


def combination_name(name: str, choices: Mapping[str, str]) -> str:
    """The label of a run whose search or fine-tuning is not its method's own: SEARCH+FINETUNING, as in snl+senet.

    `name` is `method.name`, `choices` Hydra's file of each config group. A name that the user or an experiment gave
    stays, and so does that of a method whose file is not in conf/method or builds on another.
    """
    file = conf_folder() / "method" / f"{choices['method']}.yaml"
    method = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
    own = {
        stage: choice
        for entry in method.get("defaults", [])
        if OmegaConf.is_dict(entry)
        for stage, choice in entry.items()
    }
    chosen = {stage: choices[f"method/{stage}"] for stage in ("search", "finetune")}
    if name != method.get("name") or not chosen.keys() <= own.keys() or chosen.items() <= own.items():
        return name
    return "+".join(chosen.values())
