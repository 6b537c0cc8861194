"""What the page draws of private inference: predictions for every run, measured inferences where there are any."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.figures.style import CURVE_COLOURS, KIND_COLOURS, KIND_WORDS, PART_COLOURS
from relinearize.report.tables.cost import PARTS, preset_text
from relinearize.report.tables.inference import TITLES, Inference, cells, curves, megabytes


def preset_data(preset: Preset) -> dict[str, Any]:
    """The preset of the page's predictions, for people."""
    parts = {part: {"words": words, "colour": PART_COLOURS[part]} for part, words in PARTS.items()}
    return {"name": preset.name, "text": preset_text(preset), "network": preset.network is not None, "parts": parts}


def predicted_data(row: Mapping[str, Any], preset: Preset) -> dict[str, float | None]:
    """One image online, from a row of the runs or levels; None where not known or without a network."""
    names = {"seconds": "s", "megabytes": "mb", "messages": "messages", **{part: part for part in PARTS}}
    costs = {name: short_number(row[f"{preset.name}_{column}"]) for name, column in names.items()}
    messages = costs["messages"]
    return {"live": int(row["live_sites"]), **costs, "messages": None if messages is None else round(messages)}


def inference_data(inferences: Sequence[Inference], titles: Sequence[str]) -> dict[str, Any]:
    """titles: the page's datasets; what was measured on others is shown with each."""
    found = list(curves(inferences))
    settings, kinds = ([*dict.fromkeys(names)] for names in zip(*found, strict=True)) if found else ([], [])
    places = {id(one): key for key, group in curves(inferences).items() for one in group}
    return {
        "columns": TITLES,
        "kinds": {kind: {"words": KIND_WORDS[kind], "colour": colour} for kind, colour in KIND_COLOURS.items()},
        "rows": [_row(one, titles, places.get(id(one)), settings, kinds) for one in inferences],
    }


def _row(
    one: Inference,
    titles: Sequence[str],
    curve: tuple[str, str] | None,
    settings: Sequence[str],
    kinds: Sequence[str],
) -> dict[str, Any]:
    steady, cost = one.record.steady, one.predicted
    return {
        "title": one.title if one.title in titles else None,
        "run": one.run and one.run.key,
        "name": one.name,
        "setting": one.setting,
        "relus": one.relus,
        "accuracy": one.accuracy,
        "curve": None
        if curve is None
        else {
            "label": ", ".join(filter(None, curve)),
            "colour": CURVE_COLOURS[settings.index(curve[0]) % len(CURVE_COLOURS)],
            "dash": kinds.index(curve[1]),
        },
        "measured": {"megabytes": megabytes(steady), "seconds": steady.median_seconds},
        "predicted": cost and {"megabytes": cost.bytes / 1e6, "seconds": cost.seconds},
        "bytes": {kind: size / 1e6 for kind, size in one.kind_bytes.items()},
        "seconds": {kind: short_number(seconds) for kind, seconds in one.kind_seconds.items()},
        "cells": cells(one),
        "security": one.record.security,
    }


def short_number(value: float | int | None) -> float | int | None:
    """Six digits are enough for a page; None for what JSON has no number for."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
