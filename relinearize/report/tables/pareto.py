"""All runs as one tidy table (pandas), a row each; the points of the curves, and pareto.csv, are groups of it.

panel   one dataset (name, title, image size): one set of axes
curve   one method on one backbone, width, convention and recipe within a panel
point   one asked budget of a curve: its runs differ by nothing but their seed
level   the all-ReLU networks of one kind
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from relinearize.private_inference.cost.presets import Preset
from relinearize.records.run import Record
from relinearize.records.store import plain_numbers
from relinearize.report.papers.published import drawn, published_for
from relinearize.report.tables.cost import predicted_costs
from relinearize.report.tables.text import method_order, network_name
from relinearize.targets import NEUTRAL_ARGUMENTS, TARGET, lasting_name, only_watches

ACCURACIES = ("test", "test_last", "holdout", "teacher_test")
PREDICTIONS = ("worst_class", "ece", "nll")  # of the test images, where a record has them; and the teacher's
OF_CURVE = ("dataset", "title", "backbone", "width", "convention", "method", "variant", "replacement")
# Config entries that may differ between the points of one curve.
OF_IMAGES = ("mean", "std", "augment", "short_batch")
# Beginnings of the entries of a recipe that say how the teacher came to be, beside those that name it.
OF_TEACHER = ("backbone.", "dataset.", "trainer.", "callbacks.", "data", "train images", "holdout images", "precision")
# What settings were before there was a choice; older records say nothing.
_FORMERLY = {
    **{"backbone.initialisation": "he", "backbone.student_skip": True, "dataset.short_batch": False},
    **{"backbone.pool": "max", "method.teacher.shared_shortcut_norms": False},
    **{f"method.{stage}.attack_order": "first" for stage in ("teacher", "search", "finetune")},
}
# Names and files, and what follows from the total or the budget.
_NOT_RECIPE = {
    *("method.name", "replacement.name", "allocation.name", "backbone.name", "backbone.weights", "teacher.weights"),
    *("backbone.relus", "backbone.student_width", "backbone.student_stride"),
}
LONGEST = 40  # letters of a setting in a curve's name
NAMES = ("method_name", "label", "network", "total")  # likewise of a curve, for figures and page


@dataclass(frozen=True, eq=False)
class Panel:
    """One dataset. `runs`: its rows of `run_table`, with their index there; `points`, `levels`: see below; `published`:
    the papers' points."""

    dataset: str
    title: str
    runs: DataFrame
    points: DataFrame
    levels: DataFrame
    published: DataFrame


def build_panels(records: Sequence[Record], published: bool = True, preset: Preset | None = None) -> list[Panel]:
    """Sort records into panels, deterministically and whatever their order.

    `published`: with the papers' points on the same images. `preset`: one more to predict costs for.
    """
    panels = []
    for _, runs in run_table(records, preset).groupby("panel"):
        dataset = runs["record"].iloc[0].dataset
        points = drawn(published_for(dataset.name, dataset.image_size if published else 0))
        panels.append(
            Panel(dataset.name, runs["title"].iloc[0], runs, point_table(runs), level_table(runs, preset), points)
        )
    return panels


def run_table(records: Sequence[Record], preset: Preset | None = None) -> DataFrame:
    """One row per run, by panel and curve, then falling budget and seed.

    `record` is the run itself; `met`, `asked`, `total` count ReLUs; accuracies in percent, NaN where unknown;
    `method_name` is the method with its variant, `label` adds the network where the panel has several; then the columns
    of `predicted_costs`.
    """
    rows = [_row(record) | predicted_costs(record, preset) for record in sorted(records, key=_order)]
    runs = DataFrame(rows, dtype=object).astype(dict.fromkeys(("asked", "met", "total"), int))
    sizes = runs["record"].map(lambda record: record.dataset.image_size)
    unlike = sizes.groupby(runs["title"]).transform("nunique") > 1
    runs["title"] = runs["title"].where(~unlike, runs["title"] + sizes.map(", {} pixels".format))
    numbers = runs.columns[runs.columns.get_loc("total") + 1 :]
    runs = runs.astype(dict.fromkeys(numbers, float))
    # A seed counts once: of runs that nothing here tells apart (another version of the program, say), the later ones of
    # all seeds are a curve of their own.
    turns = runs.groupby(["panel", "curve", "asked", "seed"])["key"].transform(lambda keys: pd.factorize(keys)[0] + 1)
    runs["recipe"] = [recipe | {"repeat": turn} for recipe, turn in zip(runs["recipe"], turns, strict=True)]
    runs["curve"] += turns.map(" {}".format)
    for name in ("panel", "curve"):
        runs[name] = pd.factorize(runs[name])[0]
    runs = runs.sort_values(["panel", "curve"], kind="stable", ignore_index=True)
    variants = _variants(runs.drop_duplicates("curve").set_index("curve"), ["panel", "method", "network"], "recipe")
    runs["variant"] = runs["curve"].map(variants)
    runs["method_name"] = runs["method"] + _bracketed(runs["variant"])
    several = runs.groupby("panel")["network"].transform("nunique") > 1
    runs["label"] = runs["method_name"].where(~several, runs["method_name"] + ", " + runs["network"])
    return runs


def _order(record: Record) -> tuple:
    backbone = record.backbone
    names = (record.dataset.name, record.dataset.title, record.dataset.image_size)
    method, network = method_order(record.method.name), (backbone.name, backbone.width or 0, backbone.convention)
    return (*names, *method, *network, -record.budget.asked, record.seed, record.created, record.key)


def _row(record: Record) -> dict[str, Any]:
    dataset, backbone, budget, recipe = record.dataset, record.backbone, record.budget, recipe_of(record)
    panel = (dataset.name, dataset.title, dataset.image_size)
    curve = (panel, record.method.name, backbone.name, backbone.width, backbone.convention, sorted(recipe.items()))
    teacher = record.stages.get("teacher")
    of_teacher = {name: value for name, value in recipe.items() if "teacher" in name or name.startswith(OF_TEACHER)}
    accuracies = {name: getattr(record.accuracy, name) for name in (*ACCURACIES, "class_spread")}
    about_teacher = record.accuracy.teacher_predictions
    if record.route not in (None, "clean"):  # older records have the teacher's on its clean route
        accuracies["teacher_test"] = accuracies["class_spread"] = about_teacher = None
    # The key of a network from a file has the seed of its run.
    from_file = f"{(record.config.get('teacher') or {}).get('weights')} {accuracies['teacher_test']}"
    return {
        "record": record,
        "key": record.key,
        "panel": repr(panel),
        "curve": repr(curve),
        "dataset": dataset.name,
        "title": dataset.title,
        "backbone": backbone.name,
        **{name: getattr(backbone, name) for name in ("width", "convention")},
        "network": network_name(backbone.name, backbone.width, backbone.convention),
        "method": record.method.name,
        "replacement": record.replacement,
        "unit": record.unit,
        "recipe": recipe,
        "teacher": from_file if record.method.teacher == "file" else teacher.key if teacher else f"seed {record.seed}",
        "teacher_recipe": of_teacher,
        "seed": record.seed,
        **{name: getattr(budget, name) for name in ("asked", "met", "total")},
        **accuracies,
        **{name: getattr(record.accuracy.predictions, name, None) for name in PREDICTIONS},
        **{f"teacher_{name}": getattr(about_teacher, name, None) for name in PREDICTIONS},
    }


def recipe_of(record: Record) -> dict[str, Any]:
    """What must be equal for two runs to be seeds of one point, beside method, network and budget.

    Stages, epochs, data, allocation and, by name, the settings of method, network, images and training that a result's
    key depends on. A teacher's file may be another for each seed.
    """
    config = record.config
    dataset, callbacks, trainer = (config.get(name) or {} for name in ("dataset", "callbacks", "trainer"))
    recipe: dict[str, Any] = {
        "stages": "-".join((record.method.teacher, record.method.search, record.method.finetune)),
        "replacement": record.replacement,
        "total": record.budget.total,
        "train images": record.dataset.train,
        "holdout images": record.dataset.holdout,
        "test images": record.dataset.test,
        "data": record.dataset.fingerprint,
        "selection": record.accuracy.selection,
        "allocation": _allocation(config.get("allocation") or {}),
        "precision": record.hardware.precision,
        "route": record.route,  # the same weights with other batch norms: another network, no seed of the first
        "backbone.weights": (config.get("backbone") or {}).get("weights") and "given",  # a file for each seed, maybe
        "submodel": record.submodel.fraction if record.narrower else None,
        "total epochs": config.get("total_epochs"),
    }
    # The number of search epochs follows from the budget; that of the other two stages is part of the recipe, or, where
    # the run has `total_epochs`, of search and fine-tuning together. Callbacks may end each seed's training elsewhere.
    callbacks = {name: entry for name, entry in callbacks.items() if entry and not only_watches(entry)}
    for name in ("teacher", "finetune") if recipe["total epochs"] is None else ("teacher",):
        if name in record.stages:
            asked = ((config.get("method") or {}).get(name) or {}).get("epochs") if callbacks else None
            recipe[f"{name} epochs"] = record.stages[name].epochs if asked is None else asked
    settings = {name: config.get(name) for name in ("method", "teacher", "search", "finetune", "backbone")}
    settings["replacement"] = config.get("replacement")
    own = "sensitivity" in (config.get("allocation") or {})
    if not own and any(site.sensitivity is not None for site in record.sites):
        settings["sensitivity"] = config.get("sensitivity")
    settings["dataset"] = {name: value for name, value in dataset.items() if name in OF_IMAGES}
    settings["callbacks"] = callbacks
    settings["trainer.devices"] = trainer.get("devices")
    arguments = (trainer.get("lightning") or {}).items()
    settings["trainer.lightning"] = {name: value for name, value in arguments if name not in NEUTRAL_ARGUMENTS}
    plain = plain_numbers(settings).items()
    return recipe | {key: value for name, group in plain for key, value in _flattened(group, name)}


def _variants(rows: DataFrame, kinds: list[str], column: str) -> Series:
    """Of each row what tells its recipe, in `column`, from those of the rows of its kind; index as that of `rows`."""
    return rows.groupby(kinds)[column].transform(lambda recipes: variants_of(list(recipes)))


def _bracketed(variants: Series) -> Series:
    return variants.map(lambda words: f" [{words}]" if words else "")


def variants_of(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """In a few words, what tells each recipe from the others of its method and network; "" where there is one only."""
    keys = sorted({key for recipe in recipes for key in recipe})

    def kinds(keys: Sequence[str]) -> int:
        return len({tuple(repr(recipe.get(key)) for key in keys) for recipe in recipes})

    differing = [key for key in keys if kinds([key]) > 1]
    # The classes of the stages, then their settings, then what follows from these; after two, what tells more apart.
    ordered = sorted(differing, key=lambda key: (key != "stages", "_target_" in key, "." not in key, key))
    shown = ordered[:2]
    for key in ordered[2:]:
        if kinds([*shown, key]) > kinds(shown):
            shown.append(key)
    columns = {key.removeprefix("method."): _shortened([str(one.get(key)) for one in recipes]) for key in shown}
    return [", ".join(f"{key}={texts[place]}" for key, texts in columns.items()) for place in range(len(recipes))]


def _shortened(texts: Sequence[str]) -> Sequence[str]:
    """Of long texts, paths mostly, their ends, where these tell them apart as well."""
    ends = [text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}" for text in texts]
    return ends if len(set(ends)) == len(set(texts)) else texts


def _allocation(config: dict[str, Any]) -> str:
    """Which sites may keep ReLUs, in words; records from before there was a choice say nothing."""
    settings = {key.partition(".")[2]: value for key, value in _flattened(config, "allocation")}
    words = (f"{key}={value}" for key, value in settings.items() if key != "_target_")
    return " ".join([config.get("name", "free"), *words])


def _flattened(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if name in _NOT_RECIPE or name.endswith(".seed"):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}.{key}")
    elif value is not None and value != _FORMERLY.get(name):
        value = lasting_name(value) if name.endswith(f".{TARGET}") else value  # a class may have moved since
        yield name, repr(value) if isinstance(value, list) else value


def point_table(runs: DataFrame) -> DataFrame:
    """One row per point, by curve and growing number of ReLUs.

    `relus`: mean met; accuracies and PREDICTIONS: mean, sample standard deviation (NaN for one run) and `n`; `drop`:
    all-ReLU minus test accuracy; `class_spread`: points between the class that lost most and the one that lost least.
    Costs and all that is not the test accuracy: NaN unless all runs' are known.
    """

    def of_all(name: str, of: str) -> tuple[str, Callable[[Series], float]]:
        return name, lambda values: getattr(values, of)(skipna=False)

    costs = list(runs.columns[runs.columns.get_loc("live_sites") : runs.columns.get_loc("variant")])
    points = runs.groupby(["curve", "asked"], sort=False).agg(
        **{name: (name, "first") for name in (*OF_CURVE, *NAMES, "unit")},
        relus=("met", lambda met: round(met.mean())),
        accuracy_mean=("test", "mean"),
        accuracy_std=("test", "std"),
        n=("test", "count"),
        accuracy_last_mean=of_all("test_last", "mean"),
        accuracy_last_std=of_all("test_last", "std"),
        holdout_mean=of_all("holdout", "mean"),
        all_relu_mean=of_all("teacher_test", "mean"),
        **{f"{name}_{of}": of_all(name, of) for name in (*PREDICTIONS, "class_spread") for of in ("mean", "std")},
        **{name: of_all(name, "mean") for name in costs},
        seeds=("seed", lambda seeds: " ".join(map(str, seeds))),
        keys=("key", " ".join),
    )
    points["relus_percent"] = 100 * points["relus"] / points["total"]
    points["drop"] = points["all_relu_mean"] - points["accuracy_mean"]
    return points.reset_index().sort_values(["curve", "relus"], kind="stable", ignore_index=True)


def level_table(runs: DataFrame, preset: Preset | None = None) -> DataFrame:
    """One row per network and teacher recipe with its all-ReLU accuracy (`accuracy_mean`, `accuracy_std`, `n`).

    Each teacher counts once, however many runs share it. `relus`: all; costs of the network with all ReLUs. `label`:
    the network, with what tells its teachers' recipes apart where it has several levels.
    """
    kind = ["network", "total", "recipe"]
    reshaped = [record.backbone.student is not None for record in runs["record"]]
    recipes = [repr(sorted(recipe.items())) for recipe in runs["teacher_recipe"]]
    runs = runs.assign(unknown=runs["teacher_test"].isna(), reshaped=reshaped, recipe=recipes)
    teachers = runs.sort_values(["unknown", "reshaped"], kind="stable").drop_duplicates([*kind, "teacher"])
    levels = teachers.groupby(kind, sort=False).agg(
        accuracy_mean=("teacher_test", "mean"),
        accuracy_std=("teacher_test", "std"),
        n=("teacher_test", "count"),
        **{f"{name}_mean": (f"teacher_{name}", "mean") for name in PREDICTIONS},
        **{name: (name, "first") for name in ("record", "reshaped", "teacher_recipe")},
    )
    levels = levels[levels["n"] > 0].reset_index()
    levels["label"] = levels["network"] + _bracketed(_variants(levels, ["network"], "teacher_recipe"))
    levels["relus"] = levels["total"]
    costs = [predicted_costs(record, preset, all_relus=True) for record in levels["record"]]
    costs = DataFrame(costs, index=levels.index).astype(float)
    costs.loc[levels.pop("reshaped")] = math.nan  # all that is known is the cost of another network
    return levels.join(costs)


def pareto_table(panels: Sequence[Panel]) -> DataFrame:
    """pareto.csv: one row per point; accuracies in percent, costs predicted."""
    points = pd.concat([panel.points for panel in panels], ignore_index=True)
    points = points.rename(columns={"asked": "relus_asked", "total": "relus_total"})
    points["width"] = points["width"].astype("Int64")  # a network without one makes no fractions of the others
    counts = ["relus_asked", "relus", "relus_total", "relus_percent"]
    accuracies = ["accuracy_mean", "accuracy_std", "n", "accuracy_last_mean", "accuracy_last_std"]
    costs = [name for name in points if name.endswith(("live_sites", "_s", "_mb"))]
    predictions = [f"{name}_{of}" for name in (*PREDICTIONS, "class_spread") for of in ("mean", "std")]
    further = ["holdout_mean", "all_relu_mean", "drop", *predictions, *costs, "seeds", "keys"]
    return points[[*OF_CURVE, "unit", *counts, *accuracies, *further]].round(4)
