"""The config.yaml of a finished run, read as data: a folder from somebody else runs no code and sees no secrets.

Only these parts of it are built: `dataset.source` and `backbone`. Their classes must be defined in the packages below,
not only be reachable from them. `trust=true` builds whatever is named, as for one's own runs.
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from relinearize.errors import UserError
from relinearize.targets import TARGET, defined_in

BUILT = {"dataset.source": "relinearize.data", "backbone": "relinearize.backbones"}


def read_config(path: Path, trust: bool = False) -> DictConfig:
    """UserError, one line with the path, where the file is damaged, or names what is only built with `trust`."""
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UserError(f"{path} has YAML aliases, which relinearize never writes: it is not read")
        config = OmegaConf.create(text)
        if not isinstance(config, DictConfig) or not {"dataset", "backbone"} <= config.keys():
            raise UserError(f"{path} is no config of a run: it has no dataset or backbone")
        nodes = OmegaConf.to_container(config, resolve=False)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not trust:
        check_untrusted(nodes, path)
    return config


def check_untrusted(nodes: dict[str, Any], path: Path) -> None:
    """UserError, naming key and `path`, where building parts of this config would run code or resolve anything."""
    for key, value in entries(nodes):
        if isinstance(value, str) and "${" in value:
            raise UserError(f"{path}: {key}={value} reads its surroundings; only with trust=true")
        for node, package in BUILT.items():
            named = key.startswith(f"{node}.") and key.rpartition(".")[2] == TARGET
            if named and not (isinstance(value, str) and defined_in(package, value)):
                raise UserError(f"{path}: {key}={value} is not of {package} and would be run; only with trust=true")


def entries(node: Any, key: str = "") -> list[tuple[str, Any]]:
    """Dotted key and value of all that stands in nested dicts and lists, in their order; an empty one is a value."""
    inner = dict(enumerate(node)) if isinstance(node, list) else node
    if not inner or not isinstance(inner, dict):
        return [(key, node)]
    return [entry for name, value in inner.items() for entry in entries(value, f"{key}.{name}".removeprefix("."))]
