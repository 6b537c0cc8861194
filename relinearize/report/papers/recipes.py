"""The papers' recipes (recipes.yaml), a run's settings beside them, and the page of the docs made from them.

python -m relinearize.report.papers.recipes > docs/recipes.md
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from pandas import DataFrame
from yaml import safe_load

from relinearize.conf_folder import conf_folder
from relinearize.records.run import Record
from relinearize.report.tables.text import markdown, markdown_table

SOURCES = ("code", "secondary", "unverified")  # the surest first, see recipes.yaml
STAGES = ("teacher", "search", "finetune")
NO_SETTINGS = (*(f"backbone.{name}" for name in ("name", "model", "width", "pool", "weights")), "sensitivity.seed")
# What a run does where its config is silent.
SILENT = {"backbone.student_skip": True, "dataset.short_batch": False, "allocation": "free", "replacement": "identity"}
NOT_RECORDED = "not recorded"
NODES = (*(f"method.{stage}" for stage in STAGES), "sensitivity")
STEPS = ("milestones", "gamma")  # without effect under other schedules than `milestones`
IMAGES = ("mean", "std", "holdout", "subset", "short_batch", "augment")


@dataclass(frozen=True)
class Block:
    """One block of recipes.yaml. `settings`: dotted key -> value; empty `datasets` or `backbones`: all."""

    source: str
    settings: Mapping[str, Any]
    note: str
    methods: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    parity: bool = False

    @property
    def specificity(self) -> int:
        return bool(self.datasets) + bool(self.backbones)

    def holds_for(self, dataset: str, backbone: str) -> bool:
        return dataset in (self.datasets or (dataset,)) and backbone in (self.backbones or (backbone,))


@dataclass(frozen=True)
class Setting:
    """A key of a run's config, its value, and what is published of it: source -> values that are all right."""

    key: str
    ours: Any
    published: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """By the surest source: "equal", "differs", "unverified" (equal to what is only remembered) or "not known"."""
        if not self.published or self.ours == NOT_RECORDED:
            return "not known"
        source = next(source for source in SOURCES if source in self.published)
        if self.ours not in self.published[source]:
            return "differs"
        return "unverified" if source == "unverified" else "equal"

    def texts(self) -> dict[str, str]:
        """For a table: setting, ours, and a column for each source."""
        said = {source: value_text(*self.published.get(source, ())) for source in SOURCES}
        return {"setting": short_key(self.key), "ours": value_text(self.ours)} | said

    def __str__(self) -> str:
        """search.start teacher (code: scratch, unverified: teacher)"""
        texts = self.texts()
        said = ", ".join(f"{source}: {texts[source]}" for source in SOURCES if texts[source])
        return f"{texts['setting']} {texts['ours']}" + (f" ({said})" if said else "")


def short_key(key: str) -> str:
    return key.removeprefix("method.")


def value_text(*values: Any) -> str:
    return " or ".join(_text(value) for value in values)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def comparable(value: Any) -> Any:
    """Numbers as floats, also from texts (YAML reads 1e-3 as one); lists as tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(comparable, value))
    if value is None or isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):  # TypeError: a dict in a list, of one's own network
        return value


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key, comparable value; without `_target_` and its like."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif not name.startswith("_"):
            yield f"{prefix}{name}", comparable(value)


@functools.cache
def blocks() -> tuple[Block, ...]:
    """recipes.yaml, in its order."""
    text = resources.files("relinearize.report.papers").joinpath("recipes.yaml").read_text(encoding="utf-8")
    return tuple(
        Block(
            **{name: comparable(value) for name, value in block.items()} | {"settings": dict(flat(block["settings"]))}
        )
        for block in safe_load(text)
    )


def published(method: str, dataset: str, backbone: str, key: str) -> dict[str, tuple[Any, ...]]:
    """Source -> the values of `key`; those published for other datasets or backbones only are unverified."""
    about = [block for block in blocks() if method in block.methods and key in block.settings]
    found = {}
    for source in SOURCES:
        fitting = [block for block in about if block.source == source and block.holds_for(dataset, backbone)]
        most = max((block.specificity for block in fitting), default=0)
        values = [block.settings[key] for block in fitting if block.specificity == most]
        if values:
            found[source] = tuple(dict.fromkeys(values))
    return found or ({"unverified": tuple(dict.fromkeys(block.settings[key] for block in about))} if about else {})


def own_settings(config: Mapping[str, Any], method: str, stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
    """Dotted key -> value of what a run's config says of these stages, of sensitivities, images and network.

    Left out: what a setting beside it turns off, and sensitivities where the search takes none.
    """
    given = {stage: config["method"].get(stage, {}) for stage in stages}
    if "routes" in config["method"]:
        given["routes"] = config["method"]["routes"]
    images = {name: config["dataset"].get(name, NOT_RECORDED) for name in IMAGES}
    found = SILENT | dict(flat({"method": given, "dataset": images, "backbone": config["backbone"]}))
    found |= {name: config[name]["name"] for name in ("allocation", "replacement") if name in config}
    if method != "snl" and "search" in stages:
        sensitivity = config.get("sensitivity") or {}
        learned = sensitivity.get("search") or sensitivity
        found["sensitivity"] = learned.get("_target_", NOT_RECORDED).rpartition(".")[2]
        found |= dict(flat({"sensitivity": sensitivity}))
    if found.get("method.search.paper_parity"):
        parity = (block for block in blocks() if block.parity and method in block.methods)
        found |= {key: value for block in parity for key, value in block.settings.items()}
    off = {f"{node}.{name}" for node in NODES if found.get(f"{node}.schedule") != "milestones" for name in STEPS}
    if found.get("method.search.stop_distance") is None:
        off.add("method.search.stop_patience")
    if found.get("method.teacher.trades_weight") is None:
        off.add("method.teacher.trades_temperature")
    return {key: value for key, value in found.items() if key not in off.union(NO_SETTINGS)}


def settings(record: Record, method: str, stages: tuple[str, ...] = STAGES) -> list[Setting]:
    """Every setting of a run of `method` (snl | senet | senetpp | rlnet) beside what is published of it.

    Settings of a known recipe that the record, of an older program perhaps, lacks are there, too: "not recorded".
    """
    ours, scope = own_settings(record.config, method, stages), (record.dataset.name, record.backbone.name)
    wanted = (*(f"method.{stage}." for stage in stages), "dataset.", "backbone.")
    for block in blocks():
        if method in block.methods and block.holds_for(*scope):
            absent = (key for key in block.settings if key.startswith(wanted) and key.rpartition(".")[2] not in STEPS)
            ours = dict.fromkeys(absent, NOT_RECORDED) | ours
    return [Setting(key, value, published(method, *scope, key)) for key, value in ours.items()]


# ---- docs/recipes.md -------------------------------------------------------------------------------------------------

PAGE = {"snl": "SNL (ICML 2022)", "senet": "SENet (ICLR 2023)", "rlnet": "RLNet (CVPRW 2024)"}


@functools.cache
def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", list(overrides))


def defaults(method: str, datasets: tuple[str, ...] = (), backbones: tuple[str, ...] = ()) -> dict[str, Any]:
    """Our settings of a method: of its experiment for such images and networks, or of `method=` alone."""
    overrides = [f"method={method}", "dataset=cifar100", "backbone=resnet18"]
    if datasets or backbones:
        folder = conf_folder() / "experiment" / "paper"
        names = [f"{method}_{dataset}_{backbone}" for dataset in datasets or "*" for backbone in backbones or "*"]
        files = sorted(path.stem for name in names for path in folder.glob(f"{name}.yaml"))
        overrides = [f"experiment=paper/{files[0]}"] if files else overrides
    config = composed(*overrides)
    groups = ("method", "dataset", "backbone", "sensitivity", "allocation", "replacement")
    return own_settings({name: OmegaConf.to_container(config[name], resolve=True) for name in groups}, method)


def default_settings(method: str) -> list[Setting]:
    """What `relinearize run method=` does on CIFAR-100 with ResNet-18, beside what is published of that."""
    scope = ("cifar100", "resnet18")
    return [Setting(key, value, published(method, *scope, key)) for key, value in defaults(method).items()]


def recipe_table(method: str) -> DataFrame:
    """A row per setting and scope, as texts; all rows of a setting together."""
    about = [block for block in blocks() if method in block.methods]
    rows = []
    for key in dict.fromkeys(key for block in about for key in block.settings):
        within = [block for block in about if key in block.settings]
        for datasets, backbones in dict.fromkeys((block.datasets, block.backbones) for block in within):
            same = [block for block in within if (block.datasets, block.backbones) == (datasets, backbones)]
            said = {source: dict.fromkeys(b.settings[key] for b in same if b.source == source) for source in SOURCES}
            here = defaults(method, datasets, backbones).get(key, "-")
            texts = Setting(key, here, {source: tuple(values) for source, values in said.items()}).texts()
            name = f"`{texts.pop('setting')}`{'*' if any(block.parity for block in same) else ''}"
            rows.append({"setting": name, "for": " ".join((*datasets, *backbones)), "here": texts.pop("ours")} | texts)
    return DataFrame(rows)


def page() -> str:
    """docs/recipes.md."""
    sections = []
    for method, title in PAGE.items():
        found, table = default_settings(method), recipe_table(method)
        names = {
            verdict: [f"`{short_key(setting.key)}`" for setting in found if setting.verdict == verdict]
            for verdict in ("differs", "not known")
        }
        notes = dict.fromkeys(
            f"{', '.join((block.source, *block.datasets, *block.backbones))}: {block.note}"
            for block in blocks() if method in block.methods
        )  # fmt: skip
        sections.append({
            "method": method, "title": title, "differs": names["differs"], "unknown": names["not known"],
            "table": markdown_table(table, left=tuple(table)), "notes": notes,
        })  # fmt: skip
    return markdown("recipes.md", sections=sections)


if __name__ == "__main__":
    print(page(), end="")
