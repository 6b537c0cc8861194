"""What `run` and `count` share: Hydra's own applications, with multiruns, `--help` and `--cfg`.

Light, like `run`: launchers import it in every worker, and `--cfg job` must answer at once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from relinearize.conf_folder import conf_folder
from relinearize.errors import UserError, user_error_behind
from relinearize.records.config import entries
from relinearize.sweeps.arguments import MULTIRUN

application = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")


def find_users_modules() -> None:
    """A user's own backbones and methods are found from where the command is typed.

    Last, since a file profile.py or statistics.py there must not take the place of Python's own; in the processes that
    launchers start, neither.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        here = os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the folder in which this was typed does not exist any more") from error
    if here not in sys.path:
        sys.path.append(here)


def show_help(arguments: Sequence[str]) -> None:
    """Print the keys of conf/config.yaml and of the files it chooses, and end the program, if `arguments` ask for it.

    Hydra's own help has no comments.
    """
    if {"-h", "--help"} & set(arguments):
        from relinearize.commands.composing import composed

        sweeps = any(word in MULTIRUN for word in arguments)
        composed("config", [word for word in arguments if word not in MULTIRUN and not (sweeps and "," in word)])


def one_line_errors(task: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """`task(config)`; outside a sweep a user's error ends the program here, before Hydra adds a line of its own.

    In a sweep it is raised: the job is noted as failed and the others go on.
    """
    try:
        require_all(config)
        return task(config)
    except Exception as error:
        cause = user_error_behind(error)
        if cause is None or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        fail(str(cause))


def require_all(config: DictConfig) -> None:
    """UserError if the config leaves keys to the user (`???`); those that only refer to such a key are not named."""
    nodes = OmegaConf.to_container(config, resolve=False)
    keys = sorted(key for key, value in entries(nodes) if value == "???")
    if keys:
        raise UserError(f"{' and '.join(keys)} must be given (key=value)")


def fail(message: str) -> NoReturn:
    """One line on standard error and exit status 1."""
    print(f"relinearize: error: {message}", file=sys.stderr)
    sys.exit(1)
