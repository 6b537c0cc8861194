"""What SPU is given computes what the bundle says; in plain float, so these need jax alone."""

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not here; `make test-pi` runs this in the engine's environment")

from numpy_bundles import SIZE, all_operations, pooled_network, residual_network

from relinearize.private_inference.engine.layout import Gathers, client_images, server_tensors
from relinearize.private_inference.engine.spu.lowering import lowered, masked_relu

BUNDLES = {
    "residual": lambda: residual_network([1, 0, 0.4, 0.2, 0.5]),
    "all operations": all_operations,
    "pools": pooled_network,
}
BUNDLES |= {
    replacement: functools.partial(residual_network, [1, 0, 0.4, 0.2, 0.5], replacement=replacement)
    for replacement in ("zero", "affine", "quadratic", "cubic")
}


@pytest.mark.parametrize("kn2row", [False, True])
@pytest.mark.parametrize("name", BUNDLES)
def test_it_says_what_the_bundle_says(name, kn2row):
    bundle = BUNDLES[name]()
    function = jax.jit(lowered(bundle, kn2row))
    tensors = server_tensors(bundle).values()
    found = np.asarray(function(client_images(bundle, bundle.reference.images), *tensors))
    assert np.abs(found - bundle.reference.logits).max() < 1e-5 * np.abs(bundle.reference.logits).max()


def test_a_site_of_polynomials_alone_gathers_nothing():
    coefficients = np.random.default_rng(0).normal(size=(3, SIZE[0], 1, 1)).astype("float32")
    x = jax.numpy.asarray(np.random.default_rng(1).normal(size=(1, *SIZE[1:], SIZE[0])), "float32")
    gathers = Gathers.of(np.zeros(SIZE, bool), coefficients)
    assert "gather" not in str(jax.make_jaxpr(lambda x: masked_relu(x, gathers))(x))
    slope, constant, curvature = coefficients[:, :, 0, 0]
    np.testing.assert_allclose(masked_relu(x, gathers), slope * x + constant + curvature * x**2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kept", "comparisons"), [(0, 0), (0.25, 1), (1, 1)])
def test_comparisons_are_of_the_kept_positions_alone(kept, comparisons):
    mask = np.random.default_rng(0).random(SIZE) < kept
    x = jax.numpy.asarray(np.random.default_rng(1).normal(size=(1, *SIZE[1:], SIZE[0])), "float32")
    program = jax.make_jaxpr(lambda x: masked_relu(x, Gathers.of(mask)))(x)
    compared = [equation.invars[0].aval.size for equation in program.eqns if equation.primitive.name == "max"]
    compared += [
        inner.invars[0].aval.size
        for equation in program.eqns
        if "jaxpr" in equation.params
        for inner in equation.params["jaxpr"].eqns
        if inner.primitive.name == "max"
    ]
    assert compared == [int(mask.sum())] * comparisons
    assert ("gather" in str(program)) == (0 < kept < 1), "a whole site is a plain ReLU, an empty one nothing"
    expected = np.where(np.moveaxis(mask, 0, -1), np.maximum(x, 0), x)
    assert np.array_equal(masked_relu(x, Gathers.of(mask)), expected)
