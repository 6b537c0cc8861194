"""What stands where a ReLU was removed: the identity, or a polynomial of the pre-activation. No torch: engines read it.

Coefficients have the shape K x (a site's shape, or its channels with 1 for every other side), in this order:

    K = 1   zero        slope, 0 or 1 for each position
    K = 2   affine      slope, intercept
    K = 3   quadratic   slope, intercept, curvature
"""

from collections.abc import Sequence
from typing import Any

IDENTITY = "identity"  # has no coefficients
REPLACEMENTS = (IDENTITY, "zero", "affine", "quadratic")  # by the number of coefficients
COEFFICIENTS = "coefficients"  # SITE.coefficients in a state dict


def check_coefficients(shape: Sequence[int], site: Sequence[int]) -> None:
    """ValueError unless coefficients of `shape` are those of a site of shape `site`."""
    number, *sides = shape
    whole, channels = list(site), [site[0], *[1] * (len(site) - 1)]
    if number not in (1, 2, 3) or sides != (whole if number == 1 else channels):
        raise ValueError(f"coefficients of shape {tuple(shape)} at a site of shape {tuple(site)}")


def polynomial(x: Any, coefficients: Any) -> Any:
    """slope x + intercept + curvature x^2, as far as they are given, with one product of two values that depend on x.

    x: an array of any kind, also a secret one. coefficients: a sequence of arrays that go with it.
    """
    slope, *further = coefficients
    if len(further) == 2:
        slope = x * further[1] + slope
    result = x * slope
    return result + further[0] if further else result
