"""What the page draws of private inference: predictions for every run, measured inferences where there are any."""

from collections.abc import Sequence
from typing import Any

from relinearize.private_inference.cost.presets import Preset
from relinearize.records.run import Record
from relinearize.report.figures.axes import preset_text
from relinearize.report.figures.style import CURVE_COLOURS, KIND_COLOURS, KIND_WORDS, PART_COLOURS
from relinearize.report.tables.cost import predicted, record_workload
from relinearize.report.tables.inference import Inference, curves, megabytes
from relinearize.report.tables.inference_files import TITLES, cells
from relinearize.report.tables.latency_split import PARTS


def preset_data(preset: Preset) -> dict[str, Any]:
    """The preset of the page's predictions, for people."""
    parts = {part: {"words": words, "colour": PART_COLOURS[part]} for part, words in PARTS.items()}
    return {"name": preset.name, "text": preset_text(preset), "network": preset.network is not None, "parts": parts}


def predicted_data(record: Record, preset: Preset, all_relus: bool = False) -> dict[str, float | None]:
    """Of one image online; numbers are None where they are not known, or, of a network, where there is none."""
    found, on_network = predicted(record, preset, all_relus), preset.network is not None
    online = found and found.online
    return {
        "live": record_workload(record, all_relus).live_sites,
        "seconds": online and _short(online.seconds),
        "megabytes": _short(online.bytes / 1e6) if online and on_network else None,
        "messages": round(online.messages) if online and on_network else None,
        "computation": online and _short(online.loopback_seconds),
        "wire": online and _short(online.bytes_seconds),
        "rounds": online and _short(online.rounds_seconds),
    }


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
        "seconds": {kind: _short(seconds) for kind, seconds in one.kind_seconds.items()},
        "cells": cells(one),
        "security": one.record.security,
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
