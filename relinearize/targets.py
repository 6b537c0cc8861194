"""Config nodes as plain data, and what their `_target_` names: found, and built.

Configs are stored with results and outlive the place of a class. So a class or function of this package is known by its
name: it is found wherever it lies today, and by its present name where `RENAMED` has one for it.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

PACKAGE = Path(__file__).parent
TARGET = "_target_"
# Former -> present name of a class or function that configs name. Keys of results keep the former name.
RENAMED: dict[str, str] = {}
# Of Lightning: what shows how a training goes, or chooses among kernels: not part of a result's key.
NEUTRAL_ARGUMENTS = {
    "profiler", "detect_anomaly", "benchmark", "deterministic", "log_every_n_steps", "default_root_dir",
    "enable_autolog_hparams", "inference_mode", "limit_test_batches", "limit_predict_batches", "model_registry",
}  # fmt: skip
NEUTRAL_CALLBACKS = {
    "DeviceStatsMonitor", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "RichModelSummary",
    "ThroughputMonitor",
}  # fmt: skip


def plain(node: Any) -> Any:
    """A config node as plain dicts, lists and values, interpolations resolved; anything else as it is."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def build(node: Any, *arguments: Any, **settings: Any) -> Any:
    """What the config node describes (Hydra's instantiate), from configs of earlier versions, too; lists are plain."""
    return instantiate(_at_present(plain(node)), *arguments, **{"_convert_": "all", **settings})


def builder(node: Any) -> functools.partial:
    """The class or function of a config node with its settings, to be called with what else it needs."""
    return build(node, _partial_=True)


def target(node: Mapping[str, Any]) -> Callable[..., Any]:
    """The class or function that a config node names."""
    return get_object(present_path(node[TARGET]))


def is_ours(path: str) -> bool:
    """Whether a `_target_` is of this package."""
    return path.startswith(f"{PACKAGE.name}.")


def defined_in(package: str, path: str) -> bool:
    """Whether a `_target_` is a class or function that a file of `package` (of ours) defines; nothing is imported."""
    module, _, name = present_path(path).rpartition(".")
    file = _file_of(module) if f"{module}.".startswith(f"{package}.") else None
    return file is not None and name.isidentifier() and _defines(file, name)


def lasting_name(path: str) -> str:
    """What stands for a `_target_` in keys: of this package the name it first had, of others the dotted path."""
    if not is_ours(path):
        return path
    name = path.rpartition(".")[2]
    return {present: former for former, present in reversed(RENAMED.items())}.get(name, name)


@functools.cache
def present_path(path: str) -> str:
    """The dotted path under which a `_target_` is found today; as it is where that is unknown."""
    if not is_ours(path):
        return path
    module, _, name = path.rpartition(".")
    name = RENAMED.get(name, name)
    places = [_file_of(module)]
    if places[0] is None or not _defines(places[0], name):
        places = [file for file in sorted(PACKAGE.rglob("*.py")) if _defines(file, name)]
    return f"{_module_of(places[0])}.{name}" if len(places) == 1 else path


def _file_of(module: str) -> Path | None:
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _defines(file: Path, name: str) -> bool:
    return re.search(rf"^(class|def) {re.escape(name)}\b", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _at_present(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: present_path(value) if key == TARGET else _at_present(value) for key, value in node.items()}
    return [_at_present(value) for value in node] if isinstance(node, list) else node


def only_watches(callback: Mapping[str, Any]) -> bool:
    """Whether a callback is one of Lightning's that cannot change a training."""
    package, name = callback[TARGET].partition(".")[0], callback[TARGET].rpartition(".")[2]
    return package in ("pytorch_lightning", "lightning") and name in NEUTRAL_CALLBACKS
