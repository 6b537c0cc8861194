"""Predicted costs in pareto.csv, from records alone."""

import csv
import io
from dataclasses import asdict, replace

import pytest
from fake_records import fake_record
from pandas import DataFrame

from relinearize.private_inference.cost.presets import RECORDED, find_presets, one_preset, predict
from relinearize.private_inference.cost.workload import LinearWork
from relinearize.records.run import Record
from relinearize.report.tables.cost import record_workload
from relinearize.report.tables.pareto import build_panels, pareto_table
from relinearize.report.tables.text import csv_text, markdown_table


def cost_columns(records, preset=None):
    """Those of the one point that `records` are the runs of, None where empty."""
    asked = records[0].budget.asked
    same = [
        record.model_copy(update={"seed": seed, "budget": record.budget.model_copy(update={"asked": asked})})
        for seed, record in enumerate(records)
    ]
    table = pareto_table(build_panels(same, preset=preset)).loc[:, "live_sites":].drop(columns=["seeds", "keys"])
    (row,) = table.to_dict("records")
    return {name: None if value != value else value for name, value in row.items()}


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
    rows = list(csv.DictReader(io.StringIO(csv_text(pareto_table(build_panels(records))))))
    latencies = {int(row["relus"]): float(row["semi2k_wan_s"]) for row in rows}
    assert latencies[14_000] > latencies[7_000] > 0


def by_another(record):
    """Built by a function of the user's own."""
    config = {**record.config, "backbone": {**record.config["backbone"], "_target_": "mine.build"}}
    return record.model_copy(update={"config": config})


def with_cost(record, linear):
    """A record of today, whose network says itself what its linear part is."""
    workload = asdict(replace(record_workload(record), linear=linear))
    del workload["inference"]  # of parts of a network only
    return Record.model_validate({**record.model_dump(), "schema_version": 3, "cost": {**workload, "predicted": {}}})


def test_a_users_own_network_has_columns_by_the_counts_in_its_record():
    own = by_another(fake_record("snl", 14_000))
    linear = LinearWork(layers=2, multiplications=1000, inputs=10, outputs=20, weights=30)
    counted = with_cost(own, linear)
    assert record_workload(counted) == replace(record_workload(own), linear=linear)
    assert record_workload(counted, all_relus=True).relus == counted.budget.total
    assert cost_columns([counted])["cheetah_wan_mb"] > 0 and cost_columns([own])["cheetah_wan_mb"] is None
    assert cost_columns([own, counted])["cheetah_wan_s"] is None, "no mean over a part of the runs"
    without = {name: count for name, count in asdict(linear).items() if name != "products"}
    before = counted.model_copy(update={"cost": counted.cost.model_copy(update={"linear": without})})
    assert record_workload(before).linear == replace(linear, products=linear.layers)
    older = counted.model_copy(update={"cost": counted.cost.model_copy(update={"linear": {"layers": 2}})})
    assert record_workload(older).linear is None, "counted before there were all counts"


def test_the_projects_backbones_are_counted_anew_and_others_not_by_their_name():
    record = fake_record("snl", 14_000)
    assert record_workload(with_cost(record, LinearWork(layers=2))) == record_workload(record)
    assert record_workload(by_another(record)).linear is None


def test_the_chosen_preset_is_added():
    record = fake_record("snl", 14_000)
    added = set(cost_columns([record], one_preset("semi2k", "lan"))) - set(cost_columns([record]))
    assert added == {"semi2k_lan_s", "semi2k_lan_mb"}
    assert cost_columns([record], one_preset()) == cost_columns([record])
    assert cost_columns([record], one_preset("delphi_lan"))["delphi_lan_mb"] == pytest.approx(1184 * 14_000 / 1e6)


def test_texts_of_a_table_are_neither_computed_nor_run():
    text = csv_text([{"a": "=1+1", "b": "-0.5", "c": "@x", "d": -0.5, "e": "-cmd"}])
    assert text.splitlines()[1] == "'=1+1,-0.5,'@x,-0.5,'-cmd"
    assert "<script" not in markdown_table(DataFrame([{"a": "<script>alert(1)</script> |"}]), left=())
