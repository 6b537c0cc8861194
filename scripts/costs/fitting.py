"""From measurements to constants: least squares of the relative errors, none below zero."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from costs.measuring import Measured

# Preset -> quantity -> the counts it is a sum over; all of these constants are fitted.
FITTED = {
    "cheetah": {
        "seconds": (
            "relus", "live_sites", "gathered", "products", "multiplied_ciphertexts", "result_ciphertexts",
            "packed_ciphertexts",
        ),
        "bytes": ("relus", "outputs", "sent_polynomials", "returned_polynomials"),
        "messages": ("live_sites", "products"),
    },
    "semi2k": {
        "seconds": (
            "relus", "live_sites", "gathered", "products", "windows", "patches", "weights", "multiplications",
            "inference",
        ),
        "bytes": ("relus", "patches", "weights", "outputs"),
        "messages": ("live_sites", "products", "means"),
    },
    "tfp": {
        "seconds": (
            "relus", "live_sites", "gathered", "layers", "inputs", "parameters", "multiplications", "inference",
        ),
        "bytes": ("relus", "inputs", "parameters"),
        "messages": ("live_sites", "layers", "inference"),
    },
}  # fmt: skip
# What the logits' way takes in SEMI2K; every network here has one mean, so no fit could tell the two apart.
LOGITS = {"semi2k": 1}
# The kinds of operations that the engine's clock times, and which of them a count is part of; all others are linear.
KINDS = ("relu", "gather", "linear")
REST = "rest"  # reading the program, additions, returning the logits
KIND_OF = {"relus": "relu", "live_sites": "relu", "gathered": "gather", "inference": REST}
# Added to the sources of seconds; see `measuring.undisturbed`.
CLOCK = "; latency, but no more than 1.2 times the busier party's processor time, to which load adds little"
# A maximum of two values is a ReLU of their difference; tests/private_inference/engine measure its bytes and messages.
ASSUMED = {"pool_comparisons": "relus", "pool_steps": "live_sites"}
# Nor the products of quadratics: each is multiplied and its result transformed back.
SUMS = {"quadratic_ciphertexts": ("multiplied_ciphertexts", "result_ciphertexts")}
# Nor replacements: of the seconds of a ReLU or site they have the share that they have of these.
SHARES = {
    "affine": ("relus", "bytes"),
    "affine_sites": ("live_sites", "messages"),
    "quadratic": ("relus", "bytes"),
    "quadratic_sites": ("live_sites", "messages"),
}


def fitted(measurements: Iterable[Measured]) -> dict[str, dict[str, dict[str, float]]]:
    """Preset -> quantity -> count -> constant, from the subjects that are not kept for testing."""
    seen = [one for one in measurements if not one.subject.tested]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for preset, quantities in FITTED.items():
        rows = [one for one in seen if one.preset == preset]
        if not rows:
            continue
        if preset in LOGITS:
            rows = [replace(one, messages=one.messages - LOGITS[preset]) for one in rows]
        found[preset] = {
            quantity: constants(counts, [one for one in rows if getattr(one, quantity) is not None], quantity)
            for quantity, counts in quantities.items()
        }
        found[preset]["busier_direction"] = {"": round(float(np.mean([one.busier for one in rows])), 2)}
    return found


def constants(counts: Sequence[str], rows: Sequence[Measured], quantity: str) -> dict[str, float]:
    """One constant for each count, of three digits. Of seconds the engine's clock knows each kind of operation, and
    each is fitted by itself, so that a cheap one gets its own constant and not the residual of the expensive ones."""
    if quantity != "seconds":
        return least_squares(counts, rows, [1.0] * len(rows), quantity)
    found = {}
    for kind in (*KINDS, REST):
        mine = [count for count in counts if KIND_OF.get(count, "linear") == kind]
        shares = [1 - sum(one.shares[other] for other in KINDS) if kind == REST else one.shares[kind] for one in rows]
        found |= least_squares(mine, rows, shares, quantity)
    return {count: found[count] for count in counts}


def least_squares(
    counts: Sequence[str], rows: Sequence[Measured], shares: Sequence[float], quantity: str
) -> dict[str, float]:
    """Constants that make up the `shares` of the quantity; errors count relative to the whole of it."""
    if not counts:
        return {}
    whole = np.array([getattr(one, quantity) for one in rows], float)
    table = np.array([[one.features[count] for count in counts] for one in rows], float) / whole[:, None]
    scale = np.abs(table).max(0)
    scale[scale == 0] = 1
    values, _ = nnls(table / scale, np.array(shares))
    return {count: float(f"{value:.3g}") for count, value in zip(counts, values / scale, strict=True)}


def with_constants(
    presets: Mapping[str, Any], found: Mapping[str, Mapping[str, Mapping[str, float]]], sources: Mapping[str, str]
) -> dict[str, Any]:
    """The content of presets.json with the constants that were found and, by preset, the text where they come from.

    The constants that are assumed from them follow.
    """
    protocols = dict(presets["protocols"])
    for name, quantities in found.items():
        online, source = dict(protocols[name]["online"]), sources[name]
        for quantity, values in quantities.items():
            if quantity == "busier_direction":
                online[quantity] = {"value": values[""], "source": source}
                continue
            text = source + CLOCK if quantity == "seconds" else source
            # What no fit measures stays: replacements of removed positions.
            kept = {count: one for count, one in online[quantity].items() if one["source"].startswith("assumed")}
            online[quantity] = {count: {"value": value, "source": text} for count, value in values.items()} | kept
            for assumed, model in ASSUMED.items():
                if model in values:
                    known = "assumed" if quantity == "seconds" else "measured (tests/private_inference/engine)"
                    alike = f"{known}: a maximum of two values is a ReLU of their difference, as {model}"
                    online[quantity][assumed] = {"value": values[model], "source": alike}
        for count, models in SUMS.items():
            if count in online["seconds"]:
                value = float(f"{sum(online['seconds'][model]['value'] for model in models):.2g}")
                text = f"assumed, not measured: {' and '.join(models)} together"
                online["seconds"][count] = {"value": value, "source": text}
        for count, (model, quantity) in SHARES.items():
            if count in online[quantity]:
                share = online[quantity][count]["value"] / online[quantity][model]["value"]
                value = float(f"{share * online['seconds'][model]['value']:.2g}")
                text = f"assumed, not measured: of the seconds of `{model}` the share that its {quantity} have"
                online["seconds"][count] = {"value": value, "source": text}
        protocols[name] = {**protocols[name], "online": online}
    return {**presets, "protocols": protocols}


def as_text(content: Any, depth: int = 0) -> str:
    """JSON with one line for each constant."""
    if not isinstance(content, dict) or set(content) == {"value", "source"}:
        return json.dumps(content, ensure_ascii=False)
    if not content:
        return "{}"
    inner, outer = " " * (depth + 1), " " * depth
    lines = [f"{inner}{json.dumps(key)}: {as_text(value, depth + 1)}" for key, value in content.items()]
    return "{\n" + ",\n".join(lines) + f"\n{outer}}}"
