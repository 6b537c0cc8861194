"""Predicted costs in pareto.csv, from records alone."""

import csv
import io

import pytest
from fake_records import fake_record

from relinearize.cost.choice import RECORDED
from relinearize.cost.prediction import predict
from relinearize.cost.presets import find_presets
from relinearize.report.cost import cost_columns, record_workload
from relinearize.report.pareto import build_panels, pareto_csv


def with_backbone(record, **changes):
    return record.model_copy(update={"backbone": record.backbone.model_copy(update=changes)})


def test_a_record_knows_the_whole_workload():
    record = fake_record("snl", 14_000)
    workload = record_workload(record)
    assert workload.relus == record.budget.met
    assert workload.live_sites == sum(site.kept > 0 for site in record.sites)
    assert workload.linear.layers == 21  # a ResNet-18
    assert record_workload(with_backbone(record, name="mine")).linear is None


def test_columns_are_the_predictions():
    record = fake_record("snl", 14_000)
    columns = cost_columns([record])
    assert list(columns) == [
        "live_sites", "delphi_compute_s", "delphi_wan_s", "delphi_wan_mb", "cheetah_wan_s", "cheetah_wan_mb",
        "semi2k_wan_s", "semi2k_wan_mb",
    ]  # fmt: skip
    assert columns["delphi_compute_s"] == pytest.approx(0.02 + 21e-6 * record.budget.met, abs=1e-4)
    for name in RECORDED[1:]:
        online = predict(*find_presets(name, None), record_workload(record)).online
        assert columns[f"{name}_s"] == pytest.approx(online.seconds, abs=1e-4)
        assert columns[f"{name}_mb"] == pytest.approx(online.bytes / 1e6, abs=1e-4)


def test_seeds_are_averaged_and_unknown_networks_left_empty():
    records = [fake_record("snl", budget) for budget in (14_000, 7_000)]
    both, *each = (cost_columns(some)["cheetah_wan_mb"] for some in (records, records[:1], records[1:]))
    assert both == pytest.approx(sum(each) / 2, abs=1e-3) and each[0] > each[1]
    columns = cost_columns([with_backbone(records[0], name="mine")])
    assert columns["delphi_compute_s"] > 0 and columns["live_sites"] > 0
    assert columns["cheetah_wan_s"] is columns["semi2k_wan_mb"] is columns["delphi_wan_s"] is None


def test_they_stand_in_the_csv():
    records = [fake_record("snl", budget) for budget in (14_000, 7_000)]
    rows = list(csv.DictReader(io.StringIO(pareto_csv(build_panels(records)))))
    latencies = {int(row["relus"]): float(row["semi2k_wan_s"]) for row in rows}
    assert latencies[14_000] > latencies[7_000] > 0
