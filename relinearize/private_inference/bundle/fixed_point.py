"""A bundle's numbers as engines hold them: integers over 2^bits. No torch.

Engines cut what they are given toward zero, which makes every weight smaller; the nearest is not on one side.
"""

from dataclasses import replace

import numpy as np

from relinearize.private_inference.bundle.bundle import TOLERANCE, Bundle

SPU_BITS = 18  # behind the point


def nearest(values: np.ndarray | float, bits: int) -> np.ndarray:
    """`values` to the nearest that `bits` behind the point can hold, float32."""
    return np.float32(np.rint(values * 2**bits) / 2**bits)


def with_nearest(bundle: Bundle, bits: int) -> Bundle:
    """`bundle` with weights and coefficients that `bits` behind the point hold exactly."""

    def rounded(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: nearest(tensor, bits) for name, tensor in tensors.items()}

    weights = None if bundle.weights is None else rounded(bundle.weights)
    return replace(bundle, weights=weights, coefficients=rounded(bundle.coefficients))


def mean_factors(pixels: int) -> list[float]:
    """What SPU multiplies a sum over `pixels` by to get their mean, one after the other; each costs a rounding.

    One over their number, unless that is off by more than TOLERANCE, as of large maps it is: then a power of two, which
    is exact, and what is left.
    """
    share = float(nearest(1 / pixels, SPU_BITS))
    if abs(pixels * share - 1) <= TOLERANCE:
        return [share]
    power = 2 ** min(pixels.bit_length() - 1, SPU_BITS)
    return [1 / power, float(nearest(power / pixels, SPU_BITS))]
