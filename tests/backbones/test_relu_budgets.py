"""Networks designed for a number of ReLUs: Sphynx's published cells and CryptoNAS's balanced layers."""

import pytest
import torch
from fake_sets import write_cifar10
from torch import nn

from relinearize.backbones.cryptonas import build_cryptonas, relus_per_channel
from relinearize.backbones.sphynx import FactorizedReduce, build_sphynx
from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import worst_difference
from relinearize.private_inference.bundle.exporting import export
from relinearize.records.run import find_records
from relinearize.relu.mask import relu_counts
from relinearize.relu.sites import linearize, site_shapes

SLOW = pytest.mark.slow
# ReLUs -> channels and cells at 32 pixels. At 64 running the network alone takes seconds: the smallest and the largest.
SPHYNX = {25_600: (5, 5), 30_720: (5, 6), 40_960: (5, 8), 51_200: (5, 10), 71_680: (7, 10), 102_400: (10, 10)}
CASES = [pytest.param(32, *row, marks=SLOW if row[0] > 26_000 else ()) for row in SPHYNX.items()]
CASES += [pytest.param(64, 102_400, (5, 5), marks=SLOW), pytest.param(64, 614_400, (15, 10), marks=SLOW)]


@pytest.mark.parametrize(("size", "relus", "cells"), CASES)
def test_sphynx_has_the_published_relus_one_layer_a_cell(size, relus, cells):
    model = build_sphynx(10, size, relus=relus)
    network = linearize(model, (3, size, size))
    width, number = cells
    assert list(relu_counts(network).values()) == [width * size**2] * number and width * size**2 * number == relus
    assert type(network) is type(model), "its ReLUs are modules of their own: nothing was traced"


def test_sphynx_halves_the_map_and_has_four_times_the_channels_at_its_reductions():
    shapes = list(site_shapes(linearize(build_sphynx(10, 32, relus=25_600), (3, 32, 32))).values())
    assert shapes == [(20, 16, 16)] + [(80, 8, 8)] * 4


def test_sphynxs_cells_are_the_published_ones():
    """Kernels, dilations and strides in the order of the nodes."""
    network = build_sphynx(10, 32, relus=25_600, drop_path=0.0).eval()
    normal, first = network.cells[2], network.cells[0]
    assert [type(one) is nn.Identity for one in normal.operations] == [True, True, True, *[False] * 4, True]

    def convolutions(cell):
        return [
            one[0][0] for one in cell.operations if isinstance(one, nn.Sequential) and isinstance(one[0], nn.Sequential)
        ]

    assert [(one.kernel_size[0], one.dilation[0]) for one in convolutions(normal)] == [(5, 2), (5, 1), (3, 2), (3, 1)]
    assert [one.kernel_size[0] for one in convolutions(first)] == [3, 3, 3, 3, 5]
    assert [one.stride[0] for one in convolutions(first)] == [2, 2, 1, 2, 2], "what reads nodes leaves the map as it is"
    assert isinstance(network.cells[1].preprocess0, FactorizedReduce), "the cell before has halved the map"


def test_a_factorized_reduce_reads_even_and_odd_pixels():
    reduce = FactorizedReduce(1, 2).eval()
    with torch.no_grad():
        reduce.initialise()
        reduce.conv1.weight.fill_(1)
        reduce.conv2.weight.fill_(1)
        found = reduce(torch.arange(16.0).reshape(1, 1, 4, 4)) * (1 + reduce.bn.eps) ** 0.5
    assert found.round().tolist() == [[[[0, 2], [8, 10]], [[5, 7], [13, 15]]]]
    assert not reduce.odd.weight.requires_grad


def test_drop_path_is_in_training_alone():
    network = build_sphynx(10, 32, relus=25_600, drop_path=0.9)
    images = torch.rand(2, 3, 32, 32)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


@pytest.mark.parametrize("skips", ["pruned", "shuffled", "plain"])
def test_cryptonas_is_the_widest_balanced_network_within_its_budget(skips):
    for budget, layers in ((50_000, [2, 2, 2]), (100_000, [3, 3, 3]), (86_000, [2, 4])):
        network = linearize(build_cryptonas(10, 32, relus=budget, layers=layers, skips=skips), (3, 32, 32))
        count, step = sum(relu_counts(network).values()), relus_per_channel(32, layers, skips)
        assert count % step == 0 and count <= budget < count + step


def test_cryptonas_by_hand():
    """1,024 pixels and six layers: 6,144 ReLUs a channel, so 8 channels at 50,000. Skips: four, as many maps each."""
    network = linearize(build_cryptonas(10, 32), (3, 32, 32))
    sizes = [(8, 32, 32), (32, 16, 16), (128, 8, 8)]
    assert list(site_shapes(network).values()) == [size for size in sizes for _ in range(2)]
    assert relus_per_channel(32, [2, 2, 2], "shuffled") == 10 * 1024
    assert relus_per_channel(32, [2, 2, 2], "plain") == (6 + 2 + 1.25 + 2 + 1.25) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("build", [build_sphynx, build_cryptonas])
def test_both_are_exported(build, tmp_path):
    network = build(10, 32, relus=25_600).train()
    with torch.no_grad():
        network(torch.rand(8, 3, 32, 32))  # statistics of the batch norms
    bundle = export(linearize(network.eval(), (3, 32, 32)), tmp_path / "bundle", input_size=(3, 32, 32))
    assert bundle.relus <= 25_600 and worst_difference(bundle) < 1e-4


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (build_sphynx, {"image_size": 8}, r"backbone=sphynx has cells for images of 32 and 64 pixels; these have 8"),
        (build_sphynx, {"relus": 50_000}, r"backbone\.relus=50000: no published network for 32 pixels; .* 51200, "),
        (build_sphynx, {"image_size": 64, "relus": 25_600}, r"backbone\.relus=25600: .* for 64 pixels; .* 614400"),
        (build_sphynx, {"drop_path": 1.0}, r"backbone\.drop_path=1\.0: must be"),
        (build_cryptonas, {"relus": 5_000}, r"backbone\.relus=5000: one channel .* has 6144 ReLUs; give that or more"),
        (build_cryptonas, {"relus": "50k"}, r"backbone\.relus=50k: must be an integer >= 1"),
        (build_cryptonas, {"layers": []}, r"backbone\.layers=\[\]: must be a list of integers >= 1"),
        (build_cryptonas, {"image_size": 30}, r"images of 30 pixels cannot be halved 2 times"),
        (build_cryptonas, {"skips": "none"}, r"backbone\.skips=none is unknown; valid: pruned, shuffled, plain"),
    ],
)
def test_what_cannot_be_is_one_line(build, settings, message):
    with pytest.raises(UserError, match=message):
        build(10, **({"image_size": 32} | settings))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "asked", "met"), [("sphynx", 25_600, 25_600), ("cryptonas", 7_000, 6_144)])
def test_a_run_is_that_of_an_all_relu_network(typed, tmp_path, backbone, asked, met):
    """Two steps of the documented command; the record counts the network's ReLUs."""
    write_cifar10(tmp_path / "data")
    status, _, error = typed(
        "run", "method=all_relu", "budget=all", f"backbone={backbone}", f"backbone.relus={asked}", "scale=debug",
        "dataset=cifar10", f"dataset.root={tmp_path / 'data'}", "dataset.verify=false", "dataset.subset=40",
        "method.teacher.epochs=1", "method.teacher.batch_size=20", "trainer.accelerator=cpu",
    )  # fmt: skip
    assert status == 0, error
    ((_, record),) = find_records([tmp_path / "outputs" / "debug" / "runs"])
    assert (record.budget.met, record.budget.total, record.replacement) == (met, met, "identity")
    assert record.backbone.name == backbone and record.config["backbone"]["relus"] == asked
    assert record.cost.linear is not None, "its linear layers are counted in the network"
