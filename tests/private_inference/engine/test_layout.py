"""How a bundle lies in an engine that has the channels last."""

import numpy as np
import pytest
from numpy_bundles import SIZE, Builder, all_operations, residual_network

from relinearize.errors import UserError
from relinearize.private_inference.bundle.operations import OPERATIONS
from relinearize.private_inference.engine.layout import Gathers, client_images, require, server_tensors
from relinearize.relu.replacement import polynomial


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_gathers_put_each_relu_in_its_place(share):
    random = np.random.default_rng(0)
    mask, x = random.random(SIZE) < share, random.normal(size=SIZE)
    gathers = Gathers.of(mask)
    flat = np.moveaxis(x, 0, -1).ravel()
    both = np.concatenate([flat, np.maximum(flat[gathers.kept], 0)])
    expected = np.moveaxis(np.where(mask, np.maximum(x, 0), x), 0, -1).ravel()
    assert np.array_equal(both[gathers.selected], expected)
    assert gathers.kept.size == mask.sum()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("replacement", ["zero", "affine", "quadratic", "cubic"])
@pytest.mark.parametrize("kept", [1, 0, 0.4])
def test_gathers_put_each_replacement_in_its_place(kept, replacement, channels_last):
    bundle = residual_network([kept] * 5, replacement=replacement)
    gathers = Gathers.of_bundle(bundle, channels_last)["block1.relu1"]
    mask, coefficients = bundle.masks["block1.relu1"], bundle.coefficients["block1.relu1"]
    x = np.random.default_rng(0).normal(size=mask.shape)
    flat = (np.moveaxis(x, 0, -1) if channels_last else x).ravel()
    parts = [flat, np.maximum(flat[gathers.kept], 0), polynomial(flat[gathers.replaced], gathers.coefficients), [0.0]]
    expected = OPERATIONS["replaced_relu"].compute(x[None], mask=mask, coefficients=coefficients)[0]
    expected = (np.moveaxis(expected, 0, -1) if channels_last else expected).ravel()
    assert np.allclose(np.concatenate(parts)[gathers.selected], expected, atol=1e-6)
    assert gathers.replaced.size == (0 if replacement == "zero" else (~mask).sum()), "0 and the identity cost nothing"
    assert gathers.zeros.size == ((~mask & (coefficients[0] == 0)).sum() if replacement == "zero" else 0)


def test_the_client_normalises():
    bundle = residual_network([1] * 5)
    images = bundle.reference.images[:2]
    found = client_images(bundle, images)
    assert found.shape == (2, 8, 8, 3) and found.dtype == np.float32
    assert np.allclose(found[..., 1], (images[:, 1] - 0.4) / 0.3)


def test_the_servers_tensors_are_in_the_order_of_the_graph():
    bundle = all_operations()
    tensors = server_tensors(bundle)
    assert set(tensors) == set(bundle.weights)
    assert list(tensors)[:2] == ["left.weight", "left.bias"] and tensors["left.weight"].shape == (3, 3, 3, 4)
    assert np.array_equal(tensors["affine.scale"], np.diag(bundle.weights["affine.scale"]))


def test_what_cannot_be_run_is_named():
    build = Builder()
    build.conv("conv", 3)
    build.add("late", "normalize", mean=[0.0] * 3, std=[1.0] * 3)
    build.add("flat", "flatten")
    with pytest.raises(UserError, match=r"cannot run late .* normalises the image only"):
        require(build.bundle({}), "spu")
