"""What stands where a ReLU was removed: the identity, or a polynomial of the pre-activation. No torch: engines read it.

Coefficients have the shape K x (a site's shape, or its channels with 1 for every other side), in this order:

    K = 1   zero        slope, 0 or 1 for each position
    K = 2   affine      slope, intercept
    K = 3   quadratic   slope, intercept, curvature
    K = 4   cubic       slope, intercept, curvature, that of x^3
"""

from collections.abc import Sequence
from typing import Any

IDENTITY = "identity"  # has no coefficients
REPLACEMENTS = (IDENTITY, "zero", "affine", "quadratic", "cubic")  # by the number of coefficients
COEFFICIENTS = "coefficients"  # SITE.coefficients in a state dict


def check_coefficients(shape: Sequence[int], site: Sequence[int]) -> None:
    """ValueError unless coefficients of `shape` are those of a site of shape `site`."""
    number, *sides = shape
    whole, channels = list(site), [site[0], *[1] * (len(site) - 1)]
    if number not in (1, 2, 3, 4) or sides != (whole if number == 1 else channels):
        raise ValueError(f"coefficients of shape {tuple(shape)} at a site of shape {tuple(site)}")


def polynomial(x: Any, coefficients: Any) -> Any:
    """slope x + intercept + curvature x^2 + cubic x^3, as far as they are given, by Horner's rule.

    One product of two values that depend on x for a quadratic, two for a cubic. x: an array of any kind, also a secret
    one. coefficients: a sequence of arrays that go with it.
    """
    slope, *further = coefficients
    if len(further) > 1:
        factor = further[-1]
        for lower in (*further[-2:0:-1], slope):
            factor = x * factor + lower
        slope = factor
    result = x * slope
    return result + further[0] if further else result
