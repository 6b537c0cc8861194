"""From the words typed after a command to its checked options: conf/COMMAND.yaml, composed by Hydra.

`run` and `count` are Hydra's own applications (`hydra.main`, for multiruns); the other commands use `hydra.compose`.
Keys, types, `--help`, `--cfg job` and `--config-dir` are the same in all of them.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from relinearize.commands.words import as_meant
from relinearize.conf_folder import conf_folder
from relinearize.errors import UserError, first_problem
from relinearize.sweeps.arguments import quoted

T = TypeVar("T")

Place = Annotated[Path, Field(strict=False)]
TEXTS = (str, str | None, Path, Path | None, Place, Place | None)
Count = Annotated[int, Field(ge=1)]
# A frozen dataclass whose values are checked when it is made; strict: "1" is no integer, "yes" no bool.
command_options: Callable[[type[T]], type[T]] = partial(
    dataclass, frozen=True, config=ConfigDict(strict=True, extra="forbid")
)


def checked(kind: type[T], config: DictConfig, prefix: str = "") -> T:
    """The values of `config` as the dataclass `kind`; config groups that it does not name are left out.

    prefix: where the config stands in the command's. UserError naming the first key whose value does not fit.
    """
    names = {field.name for field in fields(kind)}
    own = OmegaConf.masked_copy(config, [key for key in config if key in names or key not in groups()])
    values = OmegaConf.to_container(own, resolve=True)
    for key in names ^ values.keys():
        valid = ", ".join(f"{prefix}{name}=" for name in sorted(names))
        raise UserError(f"{prefix}{key} {'must be there' if key in names else 'is unknown'}; valid: {valid}")
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(first_problem(error, values, prefix)) from error


def composed(
    command: str,
    arguments: Sequence[str],
    kind: type | None = None,
    positional: str | None = None,
    called: Mapping[str, str] = MappingProxyType({}),
) -> DictConfig:
    """conf/COMMAND.yaml with `arguments` (KEY=VALUE); prints help or config and ends the program where they ask for it.

    kind: the dataclass of the options; values of its paths and names are taken as they are typed, whatever they would
    mean in Hydra's grammar. positional: the key of the list that takes words without `=`. called: config
    group -> the key by which the user chooses its file, where that is another. UserError for unknown keys and for what
    cannot be parsed.
    """
    texts = [field.name for field in fields(kind) if field.type in TEXTS] if kind else []
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("-h", "--help", action="store_true")
    flags.add_argument("-c", "--cfg", nargs="?", const="job")
    flags.add_argument("-cd", "--config-dir")
    given, words = flags.parse_known_args(arguments)
    if given.cfg not in (None, "job"):
        raise UserError(f"--cfg {given.cfg}: valid: job")
    places = [word for word in words if positional and (("=" not in word and word[0] != "-") or Path(word).exists())]
    overrides = [word for word in words if word not in places]
    if given.config_dir:
        overrides.append(f"hydra.searchpath=[{quoted(f'file://{Path(given.config_dir).absolute()}')}]")
    config = compose_config(command, [as_meant(as_typed(word, texts)) for word in overrides], called)
    if given.help:
        show(help_text(command, config))
    with open_dict(config):
        del config["hydra"]
        if places:
            config[positional] = places
    if given.cfg:
        show(OmegaConf.to_yaml(config))
    return config


def show(text: str) -> None:
    print(text, flush=True)
    sys.exit(0)


def as_typed(word: str, texts: Sequence[str]) -> str:
    key, separator, value = word.partition("=")
    if not separator or key not in texts or value == "null":
        return word
    return f"{key}={quoted(value) if value else 'null'}"


def compose_config(
    command: str, overrides: Sequence[str], called: Mapping[str, str] = MappingProxyType({})
) -> DictConfig:
    """The config with its node `hydra`. UserError in one line that names the word and what is valid."""
    parser = OverridesParser.create()
    for word in overrides:
        try:
            sweep = parser.parse_override(word).is_sweep_override()
        except HydraException as error:
            if "=" not in word:
                raise unknown(command, word) from error
            raise UserError(f"{word} cannot be read: {' '.join(str(error).splitlines()[0].split())}") from error
        if sweep:
            raise UserError(f"{word}: {command} takes one value of {word.partition('=')[0]}")
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            return compose(command, list(overrides), return_hydra_config=True)
        except MissingConfigException as error:
            group, _, name = str(error.missing_cfg_file).rpartition("/")
            if not error.options:
                raise
            raise UserError(
                f"{called.get(group, group)}={name} is unknown; valid: {', '.join(error.options)}"
            ) from error
        except ConfigCompositionException as error:
            word = unknown_word(error, overrides)
            if word is None:
                raise
    raise unknown(command, word, overrides)


def unknown_word(error: Exception, words: Sequence[str]) -> str | None:
    """That of `words` whose key Hydra does not know."""
    key = re.search(r"Could not (?:override|append|load|find)[^']*'([^']+)'", str(error))
    return next((word for word in words if key and word.lstrip("+~").startswith(f"{key[1]}=")), None)


def unknown(command: str, word: str, words: Sequence[str] = (), config_name: str | None = None) -> UserError:
    """`words`: of the command; the config groups that they choose say what keys there are."""
    chosen = [other for other in words if re.split("[@=/]", other.lstrip("+"))[0] in groups() and other != word]
    config = compose_config(config_name or command, [other for other in chosen if "," not in other])
    parent = word.partition("=")[0].lstrip("+~").rpartition(".")[0]
    place = OmegaConf.select(config, parent) if parent else config
    if not isinstance(place, DictConfig):
        parent, place = "", config
    start = f"{parent}." if parent else ""
    plain = OmegaConf.to_container(place, resolve=False)
    keys = [key for key in plain if key != "hydra" and not key.startswith("_")]
    valid = [f"{start}{key}{'.KEY' if isinstance(plain[key], dict) else ''}=" for key in keys]
    return UserError(f"{command} does not know {word!r}; valid: {', '.join(valid)}")


def groups() -> list[str]:
    return sorted(folder.name for folder in conf_folder().iterdir() if folder.is_dir())


def help_text(command: str, config: DictConfig) -> str:
    """The comments and defaults of the command's config file and of the files that it chose."""
    chosen: Mapping[str, str | None] = config.hydra.runtime.choices
    lines = list(described(conf_folder() / f"{command}.yaml"))
    for choice, name in reversed(chosen.items()):
        group, _, package = choice.partition("@")
        folder = conf_folder() / group
        if not group.startswith("hydra/") and not package.startswith("method."):
            files = folder.glob(
                "**/*.yaml" if group == "experiment" else "*.yaml"
            )  # other folders are groups of their own
            names = ", ".join(sorted(str(path.relative_to(folder).with_suffix("")) for path in files))
            lines += ["", f"# {choice}={name or 'null'}; valid: {names}"]
            lines += described(folder / f"{name}.yaml", f"{package or group.replace('/', '.')}.")
    return "\n".join(lines)


def described(path: Path, prefix: str = "") -> Iterator[str]:
    """The lines of a config file without its defaults list and targets, each with its full key behind `prefix`."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    prefix = "" if text.startswith("# @package _global_") else prefix
    parents: list[str] = []
    hidden = False
    for line in text.splitlines():
        entry = re.match(r"((?:  )*)(\w+):", line)
        if entry:
            parents = [*parents[: len(entry[1]) // 2], entry[2]]
            hidden = parents[0] in ("defaults", "hydra") or entry[2].startswith("_")
        if line and not hidden:
            yield f"{prefix}{'.'.join(parents)}{line[entry.end() - 1 :]}" if entry else line
