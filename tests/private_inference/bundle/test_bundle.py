"""The bundle: what is written comes back, and what is not a whole bundle of this version is refused."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from bundles import BACKBONES, linearized, replaced, small_bundle, some_kept
from safetensors.numpy import load_file, save_file

from relinearize.errors import UserError
from relinearize.files import read_json, write_json
from relinearize.methods.replacement import Affine, Cubic, Quadratic, Zero
from relinearize.private_inference.bundle.bundle import (
    GRAPH,
    MASKS,
    REFERENCE,
    WEIGHTS,
    About,
    read_bundle,
    run_bundle,
    write_bundle,
)
from relinearize.private_inference.bundle.exporting import as_bundle
from relinearize.relu.mask import Mask
from relinearize.relu.sites import named_sites


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


@pytest.fixture
def folder(bundle, tmp_path):
    write_bundle(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize(("name", "width"), BACKBONES)
def test_the_bundle_read_back_says_what_torch_says(name, width, tmp_path):
    network = some_kept(linearized(name, width))
    about = About(name="mine", key="ab12", backbone=name, width=width, convention="senet", test_accuracy=50.0)
    write_bundle(as_bundle(network, (3, 16, 16), about=about), tmp_path / "b")
    read = read_bundle(tmp_path / "b")
    images = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        expected = network(images).numpy()
    found = run_bundle(read, images.numpy())
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert read.about == about and read.classes == 5 and read.input_shape == (3, 16, 16)
    assert read.kept == Mask.of(network.network).counts and list(read.kept) == list(Mask.of(network.network))
    assert read.relus == Mask.of(network.network).count > 0


@pytest.mark.parametrize(
    ("kind", "name"), [(Zero, "zero"), (Affine, "affine"), (Quadratic, "quadratic"), (Cubic, "cubic")]
)
def test_replacements_are_public_and_come_back(kind, name, tmp_path):
    network = replaced(kind)
    write_bundle(as_bundle(network, (3, 16, 16)), tmp_path / "b")
    (tmp_path / "b" / WEIGHTS).unlink()
    client = read_bundle(tmp_path / "b", weights=False)
    assert client.replacement == name and client.kept == Mask.of(network.network).counts
    sites = named_sites(network.network)
    assert all(np.array_equal(values, sites[site].coefficients) for site, values in client.coefficients.items())
    assert set(client.coefficients) == set(sites)


def test_coefficients_that_are_not_those_of_the_graph_are_refused(tmp_path):
    bundle = as_bundle(replaced(Affine), (3, 16, 16))
    first = next(iter(bundle.coefficients))
    fewer = {name: values for name, values in bundle.coefficients.items() if name != first}
    flat = {**bundle.coefficients, first: bundle.coefficients[first][:, :, 0]}
    zero = {name: np.full((1, *mask.shape), 0.5, np.float32) for name, mask in bundle.masks.items()}
    extra = {**bundle.coefficients, "other": bundle.coefficients[first]}
    for coefficients, message in (
        (fewer, "missing .* 'coefficients'"), (extra, "but coefficients of"), (flat, "at a site of shape"),
        (zero, "neither 0 nor 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            write_bundle(replace(bundle, coefficients=coefficients), tmp_path / "b")


def test_what_is_written_comes_back(bundle, folder):
    read = read_bundle(folder)
    assert read.nodes == bundle.nodes and read.about == bundle.about and read.weights.keys() == bundle.weights.keys()
    assert all(np.array_equal(value, bundle.weights[name]) for name, value in read.weights.items())
    assert all(np.array_equal(mask, bundle.masks[name]) and mask.dtype == bool for name, mask in read.masks.items())
    assert np.array_equal(read.reference.logits, bundle.reference.logits)
    assert sorted(os.listdir(folder)) == sorted([GRAPH, MASKS, WEIGHTS, REFERENCE])
    assert folder.stat().st_mode & 0o777 == 0o755


def test_sites_that_keep_all_and_none(bundle):
    kept = list(bundle.kept.values())
    sizes = [mask.size for mask in bundle.masks.values()]
    assert kept[0] == sizes[0] and kept[1] == 0 and 0 < kept[2] < sizes[2]


def test_the_client_reads_no_weights(bundle, folder):
    (folder / WEIGHTS).unlink()
    read = read_bundle(folder, weights=False)
    assert read.weights is None and read.nodes == bundle.nodes
    with pytest.raises(ValueError, match="without its weights"):
        run_bundle(read, bundle.reference.images)
    with pytest.raises(UserError, match="damaged"):
        read_bundle(folder)


def test_the_reference_may_have_labels(bundle, tmp_path):
    count = len(bundle.reference.images)
    labelled = replace(bundle, reference=replace(bundle.reference, labels=np.arange(count)))
    write_bundle(labelled, tmp_path / "b")
    assert np.array_equal(read_bundle(tmp_path / "b").reference.labels, np.arange(count))


def changed(folder, **values):
    write_json(folder / GRAPH, read_json(folder / GRAPH) | values)


def nodes_of(folder, change):
    nodes = read_json(folder / GRAPH)["nodes"]
    change(nodes)
    changed(folder, nodes=nodes)


def one_weight_more(folder):
    save_file(load_file(folder / WEIGHTS) | {"extra": np.zeros(1, np.float32)}, folder / WEIGHTS)


def one_position_more(folder):
    content = bytearray((folder / MASKS).read_bytes())
    content[-1] ^= 1
    (folder / MASKS).write_bytes(content)


DAMAGE = {
    "another version": (lambda folder: changed(folder, schema_version=2), "has version 2; .* reads version 1"),
    "another format": (lambda folder: changed(folder, format="onnx"), "not written as a relinearize-bundle"),
    "no graph": (lambda folder: (folder / GRAPH).unlink(), "is no bundle: graph.json is missing"),
    "half a graph": (lambda folder: (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:999]), "not valid"),
    "no masks": (lambda folder: (folder / MASKS).unlink(), "damaged"),
    "other weights": (one_weight_more, "weights.safetensors is not the file"),
    "one position": (one_position_more, "masks.safetensors is not the file"),
    "an unknown operation": (lambda folder: nodes_of(folder, lambda n: n[1].update(op="exec")), "exec.*unknown op"),
    "a missing input": (lambda folder: nodes_of(folder, lambda n: n[2].update(inputs=["x"])), "no earlier nodes"),
    "two nodes of one name": (lambda folder: nodes_of(folder, lambda n: n.insert(1, n[0])), "its name is taken"),
    "another stride": (
        lambda folder: nodes_of(folder, lambda n: n[1]["attributes"].update(stride=[2, 2])), "gives .8, 8, 8., not"
    ),
    "a stride of zero": (lambda folder: nodes_of(folder, lambda n: n[1]["attributes"].update(stride=[0, 1])), "node"),
    "text for a number": (lambda folder: nodes_of(folder, lambda n: n[1]["attributes"].update(groups="1")), "node"),
    "a site less": (lambda folder: changed(folder, sites=[]), "list of sites"),
    "no nodes": (lambda folder: changed(folder, nodes=[]), "graph is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_no_bundle_is_refused_in_one_line(name, folder):
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_bundle(folder)
    assert re.search(re.escape(str(folder)), str(caught.value)) and "\n" not in str(caught.value)


def test_an_existing_folder_is_left_alone(bundle, folder):
    before = (folder / GRAPH).stat().st_mtime_ns
    with pytest.raises(UserError, match=f"{folder} exists already"):
        write_bundle(bundle, folder)
    assert (folder / GRAPH).stat().st_mtime_ns == before


def test_a_failed_write_leaves_nothing(bundle, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_bundle(bundle, tmp_path / "b")
    assert os.listdir(tmp_path) == []
