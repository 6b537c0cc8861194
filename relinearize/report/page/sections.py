"""What the page's sections draw from: private inference, masks and robustness.

Of private inference predictions for every run, and measured inferences where there are any. Masks are sums over
channels as bytes, and single channels as bits, both in base64; the page stays small: they come in order of their rank
until the room for them is used up. The robustness tables bring everything behind a number, for its hover.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pandas import DataFrame

from relinearize.private_inference.cost.presets import Preset
from relinearize.private_inference.cost.table import LAYER_COLUMNS, layer_texts, whose
from relinearize.report.figures.style import CURVE_COLOURS, KINDS, PARTS
from relinearize.report.tables.cost import preset_text
from relinearize.report.tables.inference import curves, inference_texts
from relinearize.report.tables.masks import DrawnMask, MaskGroup, SiteMap
from relinearize.report.tables.measures import interval_95, source_note
from relinearize.report.tables.pareto import Panel
from relinearize.report.tables.robustness import RobustTable, Row
from relinearize.report.tables.robustness_text import common_note

# Characters of base64 in a page. ResNet-18 of width 64, 32 x 32 pixels: 95,000 for a mask's bits, 9,000 for its sums.
ROOM_FOR_SUMS = 1_000_000
ROOM_FOR_BITS = 1_500_000


def preset_data(preset: Preset) -> dict[str, Any]:
    """The preset of the page's predictions, for people."""
    return {"name": preset.name, "text": preset_text(preset), "network": preset.network is not None, "parts": PARTS}


def predicted_data(row: Mapping[str, Any], preset: Preset) -> dict[str, float | None]:
    """One image online, from a row of the runs or levels; None where not known or without a network."""
    names = {"seconds": "s", "megabytes": "mb", "messages": "messages", **{part: part for part in PARTS}}
    costs = {name: short_number(row.get(f"{preset.name}_{column}")) for name, column in names.items()}
    messages = costs["messages"]
    return {"live": short_number(row["live_sites"]), **costs, "messages": None if messages is None else round(messages)}


def inference_data(inferences: DataFrame, titles: Sequence[str]) -> dict[str, Any]:
    """titles: the page's datasets; what was measured on others is shown with each.

    A row's `point`: the place on its curve, the same for its other seeds.
    """
    found = curves(inferences)
    settings, kinds = (list(dict.fromkeys(names)) for names in zip(*found, strict=True)) if found else ([], [])
    looks = {
        index: {
            "label": ", ".join(filter(None, (setting, kind))),
            "colour": CURVE_COLOURS[settings.index(setting) % len(CURVE_COLOURS)],
            "dash": kinds.index(kind) + len(kinds) * (settings.index(setting) // len(CURVE_COLOURS)),
            "point": place,
        }
        for (setting, kind), points in found.items()
        for place, rows in points["rows"].items()
        for index in rows
    }
    texts = inference_texts(inferences)
    return {
        "columns": list(texts),
        "layerColumns": LAYER_COLUMNS,
        "kinds": KINDS,
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
                "layers": layer_texts(row["record"].layers) if row["record"].layers else None,
                "layersAre": row["record"].layers_are + whose(row["record"].batch),
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


def mask_data(groups: Sequence[MaskGroup], panels: Sequence[Panel], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """`left_out`: the names of the runs without a mask file; `missing` says how many masks had no room at all."""
    sums = _what_fits(groups, summed, ROOM_FOR_SUMS)
    bits = _what_fits(groups, packed, ROOM_FOR_BITS)
    return {
        "leftOut": list(left_out),
        "groups": [
            {
                "panel": next(index for index, panel in enumerate(panels) if panel is group.panel),
                "network": group.network,
                "sites": [{"name": site.name, "shape": site.shape} for site in group.masks[0].sites],
                "masks": [
                    {
                        "label": mask.label,
                        "asked": mask.asked,
                        "met": mask.met,
                        "seeds": list(dict.fromkeys(record.seed for record in mask.records)),
                        "names": [record.name for record in mask.records],
                        "sums": sums[id(mask)],
                        "bits": bits.get(id(mask)),
                    }
                    for mask in group.masks
                    if id(mask) in sums
                ],
                "missing": sum(id(mask) not in sums for mask in group.masks),
            }
            for group in groups
        ],
    }


def summed(sites: Sequence[SiteMap]) -> str:
    """Channels kept at each position, row by row, site after site; two bytes, the low one first, above 255 channels."""
    sums = (site.kept.astype("<u2" if site.shape[0] > 255 else np.uint8).tobytes() for site in sites)
    return base64.b64encode(b"".join(sums)).decode()


def packed(sites: Sequence[SiteMap]) -> str:
    """Every position's bit, site after site, each site beginning with a new byte."""
    return base64.b64encode(b"".join(site.bits for site in sites)).decode()


def _what_fits(groups: Sequence[MaskGroup], text_of: Any, room: int) -> dict[int, str]:
    """id of a mask -> its text; groups take turns, so that the first does not use up the room."""
    fitting: dict[int, str] = {}
    waiting: list[list[DrawnMask]] = [group.ranked() for group in groups]
    for turn in range(max(map(len, waiting), default=0)):
        for ranked in waiting:
            if turn >= len(ranked):
                continue
            text = text_of(ranked[turn].sites)
            if len(text) > room:
                ranked.clear()
                continue
            room -= len(text)
            fitting[id(ranked[turn])] = text
    return fitting


def robustness_data(tables: Sequence[RobustTable]) -> list[dict[str, Any]]:
    """One entry per table; rows name their records by position."""
    return [
        {
            "dataset": table.dataset,
            "title": table.title,
            "networks": table.networks,
            "columns": [
                {
                    "key": column.key,
                    "title": column.title,
                    "note": common_note(column, table.checkpoints),
                    "settings": column.described,
                    "attack": column.is_attack,
                }
                for column in table.columns
            ],
            **{name: [_row(row, table) for row in getattr(table, name)] for name in ("rows", "checkpoints", "oracles")},
            "records": [_record(row) for row in table.checkpoints],
        }
        for table in tables
    ]


def _row(row: Row, table: RobustTable) -> dict[str, Any]:
    places = {one.first.key: place for place, one in enumerate(table.checkpoints)}
    of = [table.checkpoints[places[record.key]] for record in row.records]
    cells = {key: asdict(measure) for key, measure in row.cells.items()}
    if row.kind == "mean":
        for key, cell in cells.items():
            cell["each"] = [[one.first.seed, one.cells[key].value] for one in of if key in one.cells]
    return {
        **{name: getattr(row, name) for name in ("kind", "label", "network", "route", "strength", "seeds", "checks")},
        **{"method": row.first.method, "relus": row.relus, "total": row.first.total},
        "cells": cells,
        "notes": row.notes,
        "records": [places[record.key] for record in row.records],
    }


def _record(row: Row) -> dict[str, Any]:
    record = row.first
    shown = {"key", "name", "method", "route", "relus", "seed", "clean", "checks", "created", "seconds", "hardware"}
    values = record.model_dump(mode="json", include={*shown, "attacks", "corruptions"})
    route = "" if record.route is None else f", route {record.route}"
    values["label"] = f"{row.label}, {record.relus:,} ReLUs{route}, seed {record.seed}"
    for attack in values["attacks"]:
        attack["interval"] = interval_95(attack["accuracy"], attack["n"])
    if record.corruptions is not None:
        values["corruptions"]["note"] = source_note(record.corruptions)
    return values
