"""The cost block of a record: of the project's backbones, of a user's own, and of sub-models."""

import pytest
import torch
from hydra.utils import instantiate
from quick_runs import SMALL, composed, quick_plan
from torch import nn

from relinearize.private_inference.bundle.exporting import counted_bundle
from relinearize.private_inference.cost.presets import RECORDED, find_presets, predict
from relinearize.private_inference.cost.workload import bundle_workload
from relinearize.private_inference.export import of_run
from relinearize.records.run import Record
from relinearize.relu.mask import Mask
from relinearize.report.tables.cost import record_workload
from relinearize.runs.describe import cost_values, network_work


class Plain(nn.Sequential):
    """A user's own: 9 channels x 8 x 8, pooled to 9."""

    def __init__(self, classes, image_size, channels):
        pool = nn.AdaptiveAvgPool2d(1)
        layers = (nn.Conv2d(channels, 9, 3, padding=1), nn.BatchNorm2d(9), nn.ReLU(), pool, nn.Flatten())
        super().__init__(*layers, nn.Linear(9, classes))


class Sorting(Plain):
    """Does what no engine does."""

    def forward(self, images):
        return super().forward(images).sort(dim=1).values


def own_config(folder, kind):
    """With a label that is the name of another network."""
    own = [f"backbone._target_={__name__}.{kind}", "backbone.name=resnet8"]
    return composed(folder, *own, *(f"~backbone.{key}" for key in ("width", "convention", "initialisation")))


def run_workload(folder):
    subject = of_run(folder, None)
    return bundle_workload(counted_bundle(subject.network, subject.input_size))


def test_the_record_of_a_run_says_what_the_cost_command_counts(alone):
    record, folder = alone[SMALL]
    workload = run_workload(folder)
    assert record.schema_version == 3 and record_workload(record) == workload
    assert tuple(record.cost.predicted) == RECORDED
    for name, found in record.cost.predicted.items():
        (preset,) = find_presets(name, None)
        online = predict(preset, workload).online
        assert found.online.seconds == pytest.approx(online.seconds, abs=1e-6)
        assert found.online.bytes == (None if name == "delphi_compute" else round(online.bytes))
    assert record.cost.predicted["delphi_wan"].offline.bytes == 19088 * record.budget.met
    assert record.cost.predicted["cheetah_wan"].offline.bytes == 0
    assert record.cost.predicted["semi2k_wan"].offline is None


def test_a_users_network_is_counted_whatever_its_name(tmp_path):
    config = own_config(tmp_path, "Plain")
    work = network_work(config, instantiate(config.dataset.source))
    outputs = 9 * 8 * 8
    assert (work.layers, work.multiplications, work.outputs) == (2, outputs * 9 + 9 * 10, outputs + 9 + 10), "9 means"
    assert network_work(composed(tmp_path), instantiate(config.dataset.source)).layers == 10, "of the project's own"


def test_where_a_network_cannot_be_traced_no_total_is_given(tmp_path, caplog):
    config = own_config(tmp_path, "Sorting")
    mask = Mask({"some": torch.arange(10) < 5, "none": torch.arange(10) < 0})
    values = cost_values(config, instantiate(config.dataset.source), mask, "identity")
    assert (values["relus"], values["live_sites"], values["gathered"], values["linear"]) == (5, 1, 10, None)
    assert list(values["predicted"]) == ["delphi_compute"], "which knows nothing of linear layers"
    assert "no cost of the linear layers" in caplog.text and "sort" in caplog.text


@pytest.mark.slow
def test_a_narrower_network_costs_less(senetpp):
    whole, folder = senetpp
    narrow = Record.read(folder / "width-0.5" / "record.json")
    assert narrow.cost.relus == narrow.budget.met and narrow.cost.linear["layers"] == whole.cost.linear["layers"]
    assert narrow.cost.linear["multiplications"] < 0.3 * whole.cost.linear["multiplications"]
    assert narrow.cost.predicted["cheetah_wan"].online.bytes < whole.cost.predicted["cheetah_wan"].online.bytes
    assert record_workload(narrow) == run_workload(folder / "width-0.5")


def test_average_pools_make_another_network(tmp_path):
    settings = ("backbone=vgg16_bn", "backbone.width=1", "backbone.pool=average")
    request = quick_plan(tmp_path, *settings).request
    work = network_work(request.config, request.source)
    assert request.subject == "vgg16_bn_average-digits" and work.pool_comparisons == 0
    assert network_work(quick_plan(tmp_path, *settings[:2]).request.config, request.source).pool_comparisons > 0
