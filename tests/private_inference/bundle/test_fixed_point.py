"""Numbers are rounded to the nearest that an engine can hold, before it cuts what is left."""

import numpy as np
import pytest
from numpy_bundles import residual_network

from relinearize.private_inference.bundle.bundle import TOLERANCE, run_bundle
from relinearize.private_inference.bundle.fixed_point import mean_factors, nearest, with_nearest


def test_nearest_is_on_no_side():
    values = np.array([0.7, 1.2, -0.7, -1.2, 2**20 + 1], np.float32) / 2**16
    assert np.array_equal(nearest(values, 16) * 2**16, [1, 1, -1, -1, 2**20 + 1])
    many = np.random.default_rng(0).normal(0, 0.01, 10_000).astype(np.float32)
    cut = np.trunc(many * 2**16) / 2**16
    for found, shrinks in ((nearest(many, 16), False), (cut, True)):
        assert (np.abs(found).mean() / np.abs(many).mean() < 1 - 5e-4) == shrinks


def test_a_bundle_is_rounded_weights_and_coefficients():
    bundle = residual_network([1, 0, 0.4, 0.2, 0.5], replacement="quadratic")
    rounded = with_nearest(bundle, 16)
    for before, after in ((bundle.weights, rounded.weights), (bundle.coefficients, rounded.coefficients)):
        assert after.keys() == before.keys()
        for name, values in after.items():
            assert values.dtype == np.float32 and np.array_equal(values * 2**16, np.rint(before[name] * 2**16)), name
    assert np.allclose(run_bundle(rounded, bundle.reference.images), bundle.reference.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("pixels", "roundings"), [(4, 1), (16, 1), (49, 1), (196, 2), (1024, 1), (3136, 2)])
def test_a_mean_over_a_large_map_takes_two_factors(pixels, roundings):
    assert len(mean_factors(pixels)) == roundings


def test_no_mean_is_far_off():
    """A single factor of 18 bits is off by 4 % at 224 x 224 pixels."""
    for pixels in [*range(1, 4000), 112**2, 224**2, 1000**2]:
        factors = np.array(mean_factors(pixels))
        assert abs(pixels * factors.prod() - 1) <= TOLERANCE, pixels
        assert np.array_equal(factors * 2**18, np.rint(factors * 2**18)) and factors.all()
