"""What is typed after a command, so that Hydra's grammar reads it as it is meant."""

import itertools
import os
import re
from collections.abc import Sequence

from relinearize.sweeps.arguments import quoted

# What Hydra's grammar reads as something else than a text, and which texts it takes without quotes.
NO_NAME = re.compile(r"null|true|false|nan|[-+]?(inf|[\d_]*\.?[\d_]+\.?(e[-+]?\d+)?)", re.IGNORECASE)
UNQUOTED = re.compile(r"[\w./%+?|@:*-]*", re.ASCII)
# Keys of names, folders and files: 2024 is a text there, and wherever a key is called `file`.
TEXTS = {"output", "store", "sweep", "method.name", "backbone.name", "dataset.name", "dataset.title", "dataset.root"}
TEXTS |= {"teacher.weights", "backbone.weights", "logger.project", "logger.entity", "logger.group"}
TEXTS |= {"corruptions.folder", "corruptions.frost_images", "corruptions.cache"}
# Hydra's flags that are followed by a value of their own.
WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}


def with_home(word: str) -> str:
    """KEY=~/... with the home folder in place of `~`: shells leave it, and Hydra's grammar has no such value."""
    key, equals, value = word.partition("=")
    return key + equals + ",".join(map(os.path.expanduser, value.split(",")))


def of_agent(words: Sequence[str]) -> list[str]:
    """`words` without what `wandb agent` adds where it resumes a run: of the run's whole config, not of the sweep's
    parameters alone, it makes KEY=VALUE, with Python's words for mappings, lists and null."""
    if "WANDB_SWEEP_ID" not in os.environ or not any(word.startswith("lineage=") for word in words):
        return list(words)
    return [word for word in words if not re.match(r"(lineage|_wandb)=|[^.=]+=([{[]|None$)", word)]


def as_meant(word: str) -> str:
    """KEY=VALUE as Hydra reads it right: names and folders in quotes where they need them, 1e2 as 100."""
    key, equals, value = word.partition("=")
    values = value.split(",")
    if key.lstrip("+") not in TEXTS and not key.endswith(".file"):
        values = [str(int(float(part))) if re.fullmatch(r"\d+e\d{1,2}", part) else part for part in values]
    elif not value.startswith(("'", '"')) and "${" not in value:
        values = [part if part == "null" or is_name(part) else quoted(part) for part in values]
    return key + equals + ",".join(values)


def is_name(value: str) -> bool:
    """Whether Hydra's grammar takes it for a text without quotes."""
    return UNQUOTED.fullmatch(value) is not None and NO_NAME.fullmatch(value) is None


def flags_first(arguments: Sequence[str]) -> list[str]:
    """`arguments` as meant, the overrides last: argparse, below Hydra, takes none on both sides of a flag."""
    flags, overrides, words = [], [], iter(arguments)
    for word in words:
        (flags if word.startswith("-") else overrides).append(word)
        if word in WITH_VALUE:
            flags += itertools.islice(words, 1)
    return flags + [as_meant(word) for word in overrides]
