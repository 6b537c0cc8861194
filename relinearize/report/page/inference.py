"""What the page draws of private inference: predictions for every run, measured inferences where there are any."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pandas import DataFrame

from relinearize.private_inference.cost.presets import Preset
from relinearize.report.figures.style import CURVE_COLOURS, KIND_COLOURS, KIND_WORDS, PART_COLOURS
from relinearize.report.tables.cost import PARTS, preset_text
from relinearize.report.tables.inference import curves, inference_texts


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


def inference_data(inferences: DataFrame, titles: Sequence[str]) -> dict[str, Any]:
    """titles: the page's datasets; what was measured on others is shown with each."""
    found = curves(inferences)
    settings, kinds = (list(dict.fromkeys(names)) for names in zip(*found, strict=True)) if found else ([], [])
    looks = {
        index: {
            "label": ", ".join(filter(None, (setting, kind))),
            "colour": CURVE_COLOURS[settings.index(setting) % len(CURVE_COLOURS)],
            "dash": kinds.index(kind),
        }
        for (setting, kind), points in found.items()
        for index in points.index
    }
    texts = inference_texts(inferences)
    return {
        "columns": list(texts),
        "kinds": {kind: {"words": KIND_WORDS[kind], "colour": colour} for kind, colour in KIND_COLOURS.items()},
        "rows": [
            {
                "title": row["title"] if row["title"] in titles else None,
                "run": row["run_key"],
                "name": row["run"],
                "setting": row["setting"],
                "relus": row["relus"],
                "accuracy": row["test_accuracy"],
                "curve": looks.get(index),
                "measured": {"megabytes": row["steady_mb"], "seconds": row["steady_s"]},
                "predicted": None
                if row["predicted_s"] is None
                else {"megabytes": row["predicted_mb"], "seconds": row["predicted_s"]},
                "bytes": {kind: row[f"{kind}_mb"] for kind in row["record"].steady.kinds},
                "seconds": {kind: short_number(row[f"{kind}_s"]) for kind in (*row["record"].steady.kinds, "outside")},
                "cells": list(texts.loc[index]),
                "security": row["record"].security,
            }
            for index, row in inferences.iterrows()
        ],
    }


def short_number(value: float | int | None) -> float | int | None:
    """Six digits are enough for a page; None for what JSON has no number for."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
