"""What must be equal for two runs to be seeds of one point, beside method, network and budget."""

from collections.abc import Iterator, Sequence
from typing import Any

from relinearize.records.run import Record

# Config entries that may differ between the points of one curve.
_NOT_RECIPE = {"seed", "budget", "relus", "grid", "fraction", "weights", "name", "key", "output", "path", "folder"}


def recipe_of(record: Record) -> dict[str, Any]:
    """Stages, epochs, data, allocation and the method's config, by name."""
    recipe: dict[str, Any] = {
        "stages": "-".join((record.method.teacher, record.method.search, record.method.finetune)),
        "replacement": record.replacement,
        "total": record.budget.total,
        "train images": record.dataset.train,
        "holdout images": record.dataset.holdout,
        "test images": record.dataset.test,
        "data": record.dataset.fingerprint,
        "selection": record.accuracy.selection,
        "allocation": _allocation(record.config.get("allocation") or {}),
    }
    if record.route is not None:  # the same weights with other batch norms: another network, no seed of the first
        recipe["route"] = record.route
    # The number of search epochs follows from the budget; that of the other two stages is part of the recipe.
    for name in ("teacher", "finetune"):
        if name in record.stages:
            recipe[f"{name} epochs"] = record.stages[name].epochs
    for name in ("method", "teacher", "search", "finetune"):
        recipe.update(_flattened(record.config.get(name), name))
    return recipe


def variants_of(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """In a few words, what tells each recipe from the others of its method and network; "" where there is one only."""
    keys = sorted({key for recipe in recipes for key in recipe})
    differing = [key for key in keys if len({repr(recipe.get(key)) for recipe in recipes}) > 1]
    # Two are enough for a name: the classes of the stages, then their settings, then what follows from these.
    shown = sorted(differing, key=lambda key: (key != "stages", "_target_" in key, "." not in key, key))[:2]
    return [", ".join(f"{key.removeprefix('method.')}={recipe.get(key)}" for key in shown) for recipe in recipes]


def _allocation(config: dict[str, Any]) -> str:
    """Which sites may keep ReLUs, in words; records from before there was a choice say nothing."""
    settings = (f"{key}={value}" for key, value in config.items() if key not in ("name", "_target_"))
    return " ".join([config.get("name", "free"), *settings])


def _flattened(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if name.rsplit(".", 1)[-1] in _NOT_RECIPE:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}.{key}")
    elif value is not None:
        yield name, repr(value) if isinstance(value, list) else value
