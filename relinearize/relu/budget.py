"""Budgets: what the user asks, in ReLUs or as a fraction, and the mask that meets it exactly."""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from relinearize.errors import UserError
from relinearize.relu.mask import Mask

_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}
_COUNT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([km]?)", re.IGNORECASE)
_FORMS = "an integer above 0 such as 37000, 37_000, 37k or 1.2M"


def parse_count(value: object) -> int:
    """A number of ReLUs: 37000, "37k", "37.5K", "1.2M" -> int. Raises UserError for anything else, zero or negative."""
    number: Fraction | None = None
    if isinstance(value, str):
        match = _COUNT.fullmatch(re.sub(r"(?<=\d)(_(?=\d)|,(?=\d{3}(?!\d)))", "", value.strip()))
        if match:
            number = Fraction(match[1]) * _FACTORS[match[2].lower()]
    elif isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        number = Fraction(int(value)) if isinstance(value, Integral) else Fraction(float(value))
    if number is None or number.denominator != 1 or number <= 0:
        raise UserError(f"{value!r} is not a number of ReLUs; give {_FORMS}")
    return int(number)


def resolve_budget(relus: object, fraction: object, total: int) -> int:
    """The budget in ReLUs, 1 to `total`; exactly one of `relus` and `fraction` is given, the other is None.

    A fraction is rounded to the nearest ReLU, at least 1. Raises UserError in one line that names `total`.
    """
    if (relus is None) == (fraction is None):
        given = "neither" if relus is None else "both"
        raise UserError(f"give either budget.relus (1 to {total:,}) or budget.fraction (above 0, up to 1), not {given}")
    if relus is not None:
        return _checked_count(relus, total)
    try:
        number = math.nan if isinstance(fraction, bool) else float(fraction)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= 1:  # false for NaN too
        raise UserError(
            f"budget.fraction={fraction} is not a fraction of the {total:,} ReLUs of this network; "
            "give a number above 0, up to 1"
        )
    return max(1, round(number * total))


def listed_budget(key: str, entry: object, total: int) -> int:
    """An entry of a list of budgets: a float up to 1 is a fraction, anything else a count ("50k").

    Raises UserError that names `key`, where the list stands.
    """
    try:
        if isinstance(entry, float) and entry <= 1:
            return resolve_budget(None, entry, total)
        return resolve_budget(entry, None, total)
    except UserError as error:
        raise UserError(f"{key}: {str(error).replace('budget.relus=', '').replace('budget.fraction=', '')}") from None


def _checked_count(relus: object, total: int) -> int:
    try:
        budget = parse_count(relus)
    except UserError:
        raise UserError(f"budget.relus={relus} is not a number of ReLUs; give 1 to {total:,} (37k works too)") from None
    if budget > total:
        raise UserError(f"budget.relus={relus} is more than the {total:,} ReLUs of this network; give 1 to {total:,}")
    return budget


def top_mask(scores: Mapping[str, Tensor], budget: int) -> Mask:
    """Keep exactly the `budget` positions (from 0) of largest score, over all sites together.

    Ties go to the earlier site, then to the lower flat index, so the mask depends on the scores alone and the mask of a
    smaller budget lies inside that of a larger one. Raises UserError for NaN scores or an impossible budget.
    """
    _check_scores(scores)
    count = budget and _checked_count(budget, sum(score.numel() for score in scores.values()))
    return Mask(top_positions(scores, count))


def kept_first(scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores with the same order among the positions of `kept` (bool, by site), which come before all others."""
    flat = torch.cat([score.reshape(-1) for score in scores.values()]).double()
    finite = flat[flat.isfinite()]
    if len(finite) < len(flat):  # infinite ones, just beyond the others
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        beyond = high - low or 1.0
        scores = {name: score.double().clamp(low - beyond, high + beyond) for name, score in scores.items()}
        flat = flat.clamp(low - beyond, high + beyond)
    raised = 2 * float(flat.max() - flat.min()) or 1.0
    return {name: score.double() + raised * kept[name].to(score) for name, score in scores.items()}


def top_positions(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """True at exactly the `count` (from 0) largest of all `scores` together; bool on the CPU, ties as in top_mask."""
    flat = torch.cat([score.detach().reshape(-1).cpu() for score in scores.values()])
    parts = _top(flat, count).split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def site_mask(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
    """Keep exactly `counts[name]` positions of largest score at each site.

    Ties go to the lower flat index. Raises UserError for NaN scores, and ValueError for counts that do not fit.
    """
    _check_scores(scores)
    kept = {}
    for name, score in scores.items():
        if not 0 <= counts[name] <= score.numel():
            raise ValueError(f"site {name} has {score.numel()} positions and cannot keep {counts[name]}")
        kept[name] = _top(score.detach().reshape(-1).cpu(), counts[name]).view(score.shape)
    return Mask(kept)


def channel_mask(scores: Mapping[str, Tensor], channels: Mapping[str, int]) -> Mask:
    """Keep `channels[name]` whole channels at each site: those of largest mean score (float64), ties as in site_mask.

    Scores are C x H x W, or F for flat input, where each feature is a channel.
    """
    means = {name: score.double().flatten(1).mean(1) if score.dim() > 1 else score for name, score in scores.items()}
    kept = site_mask(means, channels)
    columns = {name: kept[name].view(-1, *[1] * (score.dim() - 1)) for name, score in scores.items()}
    return Mask({name: column.expand(scores[name].shape) for name, column in columns.items()})


def _check_scores(scores: Mapping[str, Tensor]) -> None:
    if not scores:
        raise UserError("there are no scores to make a mask from")
    for name, score in scores.items():
        if bool(torch.isnan(score).any()):
            raise UserError(f"the scores of site {name} hold NaN; a mask needs numbers")


def _top(flat: Tensor, count: int) -> Tensor:
    """True at exactly the `count` largest of `flat`; among equals the lower index wins."""
    if count == 0:
        return torch.zeros(flat.numel(), dtype=torch.bool)
    comparable = flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat
    rank = flat.numel() - count
    threshold = np.partition(comparable.numpy(), rank)[rank].item()  # ten times faster than torch.topk here
    kept = flat > threshold
    at_threshold = torch.nonzero(flat == threshold).squeeze(1)  # in order of index
    kept[at_threshold[: count - int(kept.sum())]] = True
    return kept


def short_count(count: int) -> str:
    """50000 -> "50k", 37500 -> "37500": for names of folders."""
    return f"{count // 1000}k" if count and count % 1000 == 0 else str(count)
