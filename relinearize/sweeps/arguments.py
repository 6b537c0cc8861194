"""What a multirun needs to know about itself: its name, and the budgets it will ask of one search."""

import contextlib
import os
import re
from datetime import datetime

from omegaconf import OmegaConf

from relinearize.conf_folder import conf_folder

MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")
SWEEP_VARIABLE = "RELINEARIZE_SWEEP"
BUDGETS = ("budget", "budget.relus", "budget.fraction")  # keys that say a budget


def quoted(text: str) -> str:
    """`text` as a string of Hydra's grammar."""
    return "'" + re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'") + "'"


def with_budget_grid(arguments: list[str]) -> list[str]:
    """Tell each job of `-m budget=100k,50k` the budgets of all, as `budget.grid`.

    Whichever job walks the search first then leaves a snapshot for every other, and none walks on to budgets of an
    experiment's grid that were not asked for. The grid is no part of any key.
    `budget=` names files of the group: 50k is the file and the count alike, half has its fraction.
    """
    if not any(flag in arguments for flag in MULTIRUN) or any("budget.grid" in argument for argument in arguments):
        return arguments
    grid: list[str] = []
    for argument in arguments:
        key, _, values = argument.partition("=")
        if key in BUDGETS:
            for value in values.strip("[]").split(","):
                value = value.strip()
                if key == "budget" and (file := conf_folder() / "budget" / f"{value}.yaml").is_file():
                    value = str(OmegaConf.load(file).get("fraction") or value)
                with contextlib.suppress(ValueError):  # of a name that is no count
                    number = float(value.rstrip("kKmM"))
                    grid.append(str(number) if key == "budget.fraction" else value)
    return [*arguments, f"budget.grid=[{','.join(grid)}]"] if grid else arguments


def name_sweep(arguments: list[str]) -> None:
    """Give a multirun that is not named otherwise the time of its start as its name (config key `sweep`), with eight
    hexadecimal digits by chance: many may start in the same second, as jobs of an array do.

    Through the environment: launchers hand it on, so jobs started later do not each read the clock, and an experiment
    file or the command line can still say `sweep`.
    """
    if any(flag in arguments for flag in MULTIRUN):
        os.environ.setdefault(SWEEP_VARIABLE, f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{os.urandom(4).hex()}")
