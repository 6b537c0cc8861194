"""NPA and mCE: one number from the accuracies under all corruptions, and how many corruptions it covers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from relinearize.corruptions.constants import CORRUPTIONS, SEVERITIES
from relinearize.corruptions.sources import coverage

Accuracies = Mapping[tuple[str, int], float]  # (corruption, severity) -> accuracy in [0, 1]


@dataclass(frozen=True)
class Anchor:
    """What corruption errors are divided by. errors: of each corruption, in [0, 1]; None: errors stay as they are."""

    title: str
    errors: Mapping[str, float] | None


MEAN_ERROR = Anchor("mean error", None)
# Hard-coded in the evaluation of AugMax and of RLNet (validate_common_corruptions.py).
TINY_RESNET18 = Anchor(
    "fixed ResNet-18, Tiny-ImageNet-C",
    dict(
        zip(
            CORRUPTIONS,
            (
                *(0.8037, 0.7597, 0.7758, 0.8426, 0.8274, 0.7907, 0.8212, 0.7497),
                *(0.7381, 0.7433, 0.6800, 0.8939, 0.7308, 0.6121, 0.6452),
            ),
            strict=True,
        )
    ),
)


@dataclass(frozen=True)
class CorruptionScore:
    """npa: mean accuracy; mce: mean corruption error relative to `anchor` (its title); both over the standard
    corruptions there are, as fractions (an mCE may exceed 1). coverage: which those are: "14 of 15 (no frost)"."""

    npa: float
    mce: float
    anchor: str
    coverage: str


def corruption_score(accuracies: Accuracies, anchor: Anchor = MEAN_ERROR) -> CorruptionScore:
    """NPA (as RLNet and RobustBench take it) and mCE of the standard corruptions in `accuracies`.

    The four extra corruptions are in no mean. Raises ValueError as `by_corruption` does.
    """
    means = by_corruption(accuracies)
    errors = [(1 - accuracy) / (anchor.errors[name] if anchor.errors else 1) for name, accuracy in means.items()]
    covered = coverage([name for name, _ in accuracies])
    return CorruptionScore(float(np.mean(list(means.values()))), float(np.mean(errors)), anchor.title, covered)


def by_corruption(accuracies: Accuracies) -> dict[str, float]:
    """Mean over the five severities of each standard corruption that is there.

    ValueError if there is none or if one lacks a severity: means of different severities must not be compared.
    """
    means = {}
    for name in CORRUPTIONS:
        there = [severity for severity in SEVERITIES if (name, severity) in accuracies]
        if there and len(there) < len(SEVERITIES):
            raise ValueError(f"{name} has severities {there}, needs 1 to 5")
        if there:
            means[name] = float(np.mean([accuracies[name, severity] for severity in there]))
    if not means:
        raise ValueError("none of the standard corruptions is there")
    return means
