"""The settings of conf/logger/wandb.yaml for a command that Hydra does not read: `report ... logger=wandb`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from relinearize.conf_folder import conf_folder
from relinearize.errors import UserError
from relinearize.tracking.interface import LoggerSettings


def wandb_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """project, entity, mode, group and tags, from `logger=wandb` and `logger.KEY=VALUE` ones; defaults as for a run.

    UserError for another logger, an unknown key or mode, or no logger=wandb among them.
    """
    config = OmegaConf.create({"sweep": None, "logger": OmegaConf.load(conf_folder() / "logger" / "wandb.yaml")})
    del config.logger.name
    for argument in arguments:
        key = argument.partition("=")[0]
        known = key.removeprefix("logger.") in config.logger
        if argument != "logger=wandb" and not known:
            valid = ", ".join(["logger=wandb", *(f"logger.{name}=..." for name in config.logger)])
            raise UserError(f"relinearize report does not know {argument}; valid: {valid}")
        if known:
            config = OmegaConf.merge(config, OmegaConf.from_dotlist([argument]))
    if "logger=wandb" not in arguments:
        raise UserError(f"relinearize report {arguments[0]}: this is a setting of W&B; give logger=wandb, too")
    settings = OmegaConf.to_container(config.logger, resolve=True)
    LoggerSettings("wandb", Path(), **settings)  # checks the mode
    return settings
