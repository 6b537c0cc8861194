"""The counts behind a cost: from bundles, from masks alone, from a backbone's name."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy_bundles import all_operations, pooled_network, residual_network
from torch import nn

from relinearize.backbones import build_backbone
from relinearize.private_inference.bundle.exporting import as_bundle, counted_bundle
from relinearize.private_inference.cost.backbones import backbone_work
from relinearize.private_inference.cost.presets import find_presets, predict, predicted_layers
from relinearize.private_inference.cost.workload import (
    LinearWork,
    Workload,
    bundle_layers,
    bundle_workload,
    mask_workload,
)


def test_counts_by_hand():
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 1, groups=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(4 * 2 * 2, 5),
    )  # fmt: skip
    bundle = as_bundle(layers, (3, 8, 8))
    kept = np.zeros((4, 2, 2), bool)
    kept[0, 0, :2] = True
    bundle.masks["4"] = kept
    assert bundle_workload(bundle) == Workload(
        relus=4 * 4 * 4 + 2,
        live_sites=2,
        gathered=16,
        linear=LinearWork(
            layers=3,
            products=1 + 2 + 1,
            multiplications=64 * 27 + 16 * 2 + 5 * 16,
            inputs=3 * 64 + 16 + 16,
            outputs=64 + 16 + 5,
            weights=4 * 27 + 4 * 2 + 5 * 16,
            parameters=4 * 27 + 4 * 2 + 5 * 16,
            pool_comparisons=4 * (4 * 3 + 2 * 3),  # of each row a maximum of two and one of three, of each column, too
            pool_steps=4,
            windows=16 + 2 * 4 + 1,
            patches=16 * 27 + 4 * 2 * 2 + 16,
            sent_polynomials=1 + 2 * 1 + 1,
            returned_polynomials=1 + 2 * 1 + 1,
            multiplied_ciphertexts=1 + 2 * 1 + 1,
            result_ciphertexts=1 + 2 * 1 + 1,
        ),
    )


def test_means_are_counted_as_they_are_rounded():
    """Each once, over large windows twice; whether of a window or of the whole map."""
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
    head = [nn.Flatten(), nn.Linear(4, 5)]
    pooled = nn.Sequential(*layers, nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), *head)
    whole = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head)
    for network, size, means, roundings in (
        (pooled, 16, 4 * 8 * 8 + 4, 2), (whole, 16, 4, 1), (whole, 56, 2 * 4, 2),
    ):  # fmt: skip
        found = bundle_workload(counted_bundle(network, (3, size, size)), batch=3).linear
        assert (found.outputs, found.means) == (3 * (4 * size**2 + means + 5), roundings)


@pytest.mark.parametrize(
    ("inside", "size", "outside", "stride", "opened"),
    [(16, 8, 16, 1, 11520), (32, 4, 64, 2, 19584), (64, 2, 64, 1, 65792), (16, 3, 16, 1, 3600), (32, 2, 64, 2, 8320)],
)
def test_products_are_those_that_the_engine_computes(inside, size, outside, stride, opened):
    """A 3x3 convolution alone in SEMI2K: 8 bytes for each scalar of a product, 4 for each output, as sent."""
    pixels = math.ceil(size / stride) ** 2
    found = LinearWork.of_convolution(inside, inside * size**2, 9, outside, pixels)
    assert found.patches + found.weights == opened and found.outputs == outside * pixels
    assert found.parameters == 9 * inside * outside, "whichever of kernel and map is laid on the other"


@pytest.mark.parametrize("bundle", [residual_network([1, 0, 0.4, 0.2, 0.5], replacement="quadratic"), pooled_network()])
def test_layers_add_up_to_the_network(bundle):
    """Each site, pool and linear layer, and the rest; their predicted costs are those of the whole."""
    layers = bundle_layers(bundle)
    assert [layer.name for layer in layers[:3]] == [node.name for node in bundle.nodes if node.op != "normalize"][:3]
    for preset in find_presets(None, None):
        whole, parts = predict(preset, bundle_workload(bundle)).online, predicted_layers(preset, layers)
        for name in ("seconds", "bytes", "messages"):
            assert sum(getattr(part, name) for part in parts) == pytest.approx(getattr(whole, name)), preset.name
    assert [layer.work.relus for layer in layers if layer.positions] == list(bundle.kept.values())
    assert layers[-1].name == "rest" and layers[-1].work.inference == 1


def test_spu_convolves_group_by_group_and_others_do_not():
    grouped = bundle_workload(all_operations())
    assert (grouped.linear.layers, grouped.linear.products) == (7, 6 + 4)
    alike = replace(grouped, linear=replace(grouped.linear, products=7))
    for name, each in {"cheetah": 4.04, "semi2k": 2, "tfp": 0, "ckks": 0}.items():
        (preset,) = find_presets(name, "lan")
        more, fewer = (predict(preset, one).online.messages for one in (grouped, alike))
        assert more - fewer == pytest.approx(3 * each), name


def test_what_a_mask_alone_says():
    workload = mask_workload([(10, 10), (3, 20), (0, 30)])
    assert workload == Workload(relus=13, live_sites=2, gathered=20)
    assert "layers" not in workload.features() and workload.features()["inference"] == 1


def test_a_batch_has_more_of_all_but_weights_sites_and_layers():
    bundle = residual_network([1, 0, 0.4, 0.2, 0.5])
    one, three = bundle_workload(bundle).features(), bundle_workload(bundle, batch=3).features()
    same = ("inference", "live_sites", "layers", "products", "weights")
    grows = ("relus", "gathered", "multiplications", "inputs", "outputs", "windows", "patches")
    assert {name: three[name] for name in same} == {name: one[name] for name in same}
    assert {name: three[name] for name in grows} == {name: 3 * one[name] for name in grows}
    assert one["sent_polynomials"] <= three["sent_polynomials"] < 3 * one["sent_polynomials"]
    swapped = LinearWork.of_convolution(16, 64, 9, 32, 4, batch=3)
    assert swapped == replace(LinearWork.of_products(3 * 64, 32 * 4, 64, 3), windows=4, parameters=9 * 16 * 32)


CASES = [(name, 17, 2, "snl") for name in ("resnet8", "resnet18", "resnet34", "wrn22_8", "vgg16_bn")]
CASES += [("vgg16_bn_average", 17, 2, "senet")]
CASES += [("resnet8", 16, 1, "senet"), ("wrn22_8", 8, 1, "senet"), ("vgg16_bn", 64, 1, "senet")]


@pytest.mark.parametrize(("name", "size", "width", "convention"), CASES)
def test_backbones_are_counted_without_the_network(name, size, width, convention):
    settings = {"classes": 7, "image_size": size, "channels": 3}
    pool = {"pool": "average"} if name.endswith("average") else {}
    network = build_backbone(name.removesuffix("_average"), convention=convention, width=width, **settings, **pool)
    bundle = counted_bundle(network, (3, size, size))
    assert backbone_work(name, width, SimpleNamespace(**settings)) == bundle_workload(bundle).linear


def test_other_backbones_and_the_papers_widths():
    images = SimpleNamespace(classes=10, image_size=32, channels=3)
    assert backbone_work("mine", 1, images) is None
    for name, width in (("resnet8", 16), ("resnet18", 64), ("resnet34", 64), ("wrn22_8", 16), ("vgg16_bn", 64)):
        assert backbone_work(name, None, images) == backbone_work(name, width, images)
    # VGG16 pools after blocks 1 to 3, three comparisons for each output.
    pooled = 3 * (64 * 16**2 + 128 * 8**2 + 256 * 4**2)
    assert backbone_work("vgg16_bn", 64, images).pool_comparisons == pooled


def test_replacements_are_counted_beside_the_relus():
    sites = [(10, 10), (3, 20), (0, 30_000)]
    assert mask_workload(sites, "zero") == mask_workload(sites, "identity") == mask_workload(sites)
    affine, quadratic = mask_workload(sites, "affine"), mask_workload(sites, "quadratic")
    assert (affine.affine, affine.affine_sites, affine.quadratic) == (30_017, 2, 0)
    assert (quadratic.quadratic, quadratic.quadratic_sites, quadratic.affine) == (30_017, 2, 0)
    assert quadratic.quadratic_ciphertexts == 2 * (1 + 4), "8,192 scalars in each, both ways"
    cubic = mask_workload(sites, "cubic")
    assert (cubic.quadratic, cubic.quadratic_sites) == (2 * 30_017, 4), "two products, one after the other"
    assert cubic.quadratic_ciphertexts == 2 * quadratic.quadratic_ciphertexts
    assert (quadratic.relus, quadratic.live_sites, quadratic.gathered) == (13, 2, 20), "no count of ReLUs sees them"


@pytest.mark.parametrize("replacement", ["affine", "quadratic", "cubic", "zero"])
def test_a_bundle_has_the_workload_of_its_record(replacement):
    bundle = residual_network([1, 0, 0.4, 0.2, 0.5], replacement=replacement)
    sites = [(int(mask.sum()), mask.size) for mask in bundle.masks.values()]
    assert replace(bundle_workload(bundle), linear=None) == mask_workload(sites, replacement)
