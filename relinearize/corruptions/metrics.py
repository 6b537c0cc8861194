"""NPA and mCE: one number from the accuracies under all corruptions."""

from collections.abc import Mapping

import numpy as np

from relinearize.corruptions.constants import CORRUPTIONS, SEVERITIES

# What corruption errors are divided by: nothing, or hard-coded in the evaluation of AugMax and of RLNet
# (validate_common_corruptions.py).
MEAN_ERROR, TINY_RESNET18 = "mean error", "fixed ResNet-18, Tiny-ImageNet-C"
TINY_ERRORS = (
    *(0.8037, 0.7597, 0.7758, 0.8426, 0.8274, 0.7907, 0.8212, 0.7497),
    *(0.7381, 0.7433, 0.6800, 0.8939, 0.7308, 0.6121, 0.6452),
)


def corruption_score(accuracies: Mapping[tuple[str, int], float], anchor: str = MEAN_ERROR) -> tuple[float, float]:
    """(NPA, as RLNet and RobustBench take it; mCE) of the standard corruptions in `accuracies`, as fractions.

    accuracies: (corruption, severity) -> accuracy in [0, 1]; the four extra corruptions are in no mean. anchor:
    MEAN_ERROR or TINY_RESNET18, relative to whose errors the mCE is (it may exceed 1). Raises ValueError if there is no
    corruption or if one lacks a severity: means of different severities must not be compared.
    """
    means, errors = [], []
    for name, known in zip(CORRUPTIONS, TINY_ERRORS, strict=True):
        there = [severity for severity in SEVERITIES if (name, severity) in accuracies]
        if there and len(there) < len(SEVERITIES):
            raise ValueError(f"{name} has severities {there}, needs 1 to 5")
        if there:
            means.append(float(np.mean([accuracies[name, severity] for severity in there])))
            errors.append((1 - means[-1]) / (known if anchor == TINY_RESNET18 else 1))
    if not means:
        raise ValueError("none of the standard corruptions is there")
    return float(np.mean(means)), float(np.mean(errors))
