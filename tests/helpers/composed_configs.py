"""Configs composed as the command composes them, what experiment files sweep over, and sizes for tests."""

import copy
import functools

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from relinearize.cli import conf_folder

CONF = conf_folder()


def files_of(group):
    return sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml"))


GROUP_FOLDERS = {path.name for path in CONF.iterdir() if path.is_dir()}


def chooses_a_file(override):
    key = override.partition("=")[0].lstrip("+~")
    return key in GROUP_FOLDERS or "/" in key or "@" in key


@functools.cache
def _chosen(choices):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(choices), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        config.method.name = config.method.name  # sweep/ablation names its runs by Hydra's choices
        with open_dict(config):
            del config.hydra
        return config


def composed(*overrides):
    """Hydra composes each choice of files once, for a fifth of a second; values are then set by its own function."""
    choices = [override for override in overrides if chooses_a_file(override)]
    config = copy.deepcopy(_chosen(tuple(choices)))
    values = [override for override in overrides if override not in choices]
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), config)
    return config


def swept(experiment):
    """Key -> values of the file's own sweep."""
    params = OmegaConf.select(OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml"), "hydra.sweeper.params")
    return {key: str(values).split(",") for key, values in (params or {}).items()}


GROUPS = [
    "method",
    "sensitivity",
    "score",
    "allocation",
    "replacement",
    "dataset",
    "backbone",
    "trainer",
    "callbacks",
    "logger",
    "scale",
]


# As small as it gets, two steps a stage; overrides of keys that a method lacks are left out.
TINY = {
    "method.teacher.epochs": 1, "method.search.epochs": 1, "method.finetune.epochs": 1, "sensitivity.epochs": 1,
    "method.teacher.batch_size": 16, "method.search.batch_size": 16, "method.finetune.batch_size": 16,
    "sensitivity.batch_size": 16, "sensitivity.updates_per_epoch": 2, "sensitivity.search.epochs": 1,
    "dataset.subset": 64, "dataset.holdout": 0.5, "trainer.accelerator": "cpu", "trainer.precision": 32,
    "trainer.progress": "none", "budget.relus": None, "budget.fraction": 0.5, "budget.grid": [], "backbone.width": 8,
    **{f"method.{stage}.{key}": 1 for stage in ("teacher", "search", "finetune") for key in (
        "attack.steps", "robust_validation.steps", "robust_validation.images")},
}  # fmt: skip


def tiny(config):
    for key, value in TINY.items():
        if OmegaConf.select(config, key, default="absent") != "absent":
            OmegaConf.update(config, key, value)
    return config
