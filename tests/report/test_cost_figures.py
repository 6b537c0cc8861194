"""Curves against predicted latency and bytes, the parts of a latency, and the columns for people."""

import io
import json

import pandas as pd
import pytest
from fake_records import fake_record, fake_sweep, write_records
from rich.console import Console
from rich.text import Text
from test_page import Page

from relinearize.commands.report import main as report_command
from relinearize.private_inference.cost.presets import one_preset, predict
from relinearize.report.figures.canvas import wide
from relinearize.report.figures.costs import MOST, draw_latency_split, latency_splits
from relinearize.report.figures.pareto import RELUS, cost_axes, covered, draw_pareto
from relinearize.report.page.page import render_page
from relinearize.report.report import Report, write_report
from relinearize.report.tables.cost import record_workload
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.terminal import print_runs


def unknown(record):
    """Nobody knows the linear part of its network."""
    return record.model_copy(update={"backbone": record.backbone.model_copy(update={"name": "mine"})})


def seconds(record, preset):
    return predict(preset, record_workload(record)).online.seconds


def test_points_and_all_relu_networks_have_their_places():
    records = fake_sweep(methods=("snl",), seeds=(0, 1))
    (panel,) = build_panels(records)
    (level,) = panel.levels.to_dict("records")
    latency, sent = (axis.column for axis in cost_axes(one_preset("delphi_wan")).values())
    for point in panel.points.to_dict("records"):
        assert point[sent] == pytest.approx(1184 * point["asked"] / 1e6)
        own = [record for record in records if record.budget.asked == point["asked"]]
        costs = [seconds(record, one_preset("delphi_wan")) for record in own]
        assert point[latency] == pytest.approx(sum(costs) / 2)
        assert point[RELUS.column] == point["asked"]
    assert (level[RELUS.column], level[sent]) == (139_264, pytest.approx(1184 * 139_264 / 1e6))
    assert level[latency] > max(panel.points[latency])


def test_computation_alone_has_no_bytes_and_unknown_networks_no_place():
    assert list(cost_axes(one_preset("delphi_compute"))) == ["latency"]
    known, other = build_panels([fake_record(), unknown(fake_record(dataset="digits", title="digits"))])
    axis = cost_axes(one_preset())["bytes"]
    assert covered(axis, [known, other]) == [known] and covered(RELUS, [known, other]) == [known, other]


def test_an_axis_of_costs_is_logarithmic_where_that_helps():
    assert wide(1, 5) and not wide(14, 17) and not wide(0, 5)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_pictures_are_drawn_in_every_case():
    records = fake_sweep(methods=("snl",), budgets=(70_000, 3_500))
    panels = build_panels(
        [*records, fake_record(dataset="digits", title="digits", image_size=8), unknown(fake_record("x"))]
    )
    pictures = [draw_pareto(panels, axis) for axis in cost_axes(one_preset("delphi")).values()]
    pictures += [draw_pareto(panels[1:], cost_axes(one_preset())["latency"]), draw_pareto(panels)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures) and len({*pictures}) == 4
    splits = latency_splits(panels, one_preset())
    many = pd.concat([splits] * MOST)
    assert draw_latency_split(splits, one_preset()) != draw_latency_split(many, one_preset())


def test_the_parts_of_a_latency_make_the_whole():
    records = [*fake_sweep(methods=("snl",), budgets=(70_000, 3_500)), unknown(fake_record("x"))]
    panels, preset = build_panels(records), one_preset("semi2k")
    splits = latency_splits(panels, preset)
    assert list(splits["title"]) == 2 * ["CIFAR-10 (JPEG)"]
    assert [(label[:3], label[-3:]) for label in splits["label"]] == [("snl", "70K"), ("snl", ".5K")]
    points = panels[0].points
    (whole,) = points.loc[points["asked"] == 70_000, cost_axes(preset)["latency"].column]
    first, second = splits.itertuples()
    assert first.computation + first.wire + first.rounds == pytest.approx(whole)
    assert first.rounds == second.rounds > 0, "all sites keep some"
    assert latency_splits(panels, one_preset("delphi_compute")).empty


def test_runs_with_another_choice_of_sites_are_another_curve():
    free = fake_record("snl", 14_000)
    config = {**free.config, "allocation": {"name": "sites", "_target_": "x.FewerSites", "live": 6}}
    sites = fake_record("snl", 7_000).model_copy(update={"config": config})
    today = fake_record("snl", 3_500).model_copy(update={"config": {**free.config, "allocation": {"name": "free"}}})
    (panel,) = build_panels([free, sites, today])
    labels = panel.points["label"].value_counts().to_dict()
    assert labels == {"snl [allocation=free]": 2, "snl [allocation=sites live=6]": 1}


def test_the_page_has_the_same_numbers():
    records = [fake_record("snl", 14_000), unknown(fake_record("x"))]
    preset = one_preset("delphi_lan")
    data = json.loads(Page(render_page(build_panels(records, preset=preset), {}, preset=preset)).data)
    assert data["preset"]["name"] == "delphi_lan" and "1 ms RTT" in data["preset"]["text"]
    costs = {run["key"]: run["predicted"] for run in data["runs"]}
    online = predict(preset, record_workload(records[0])).online
    found = costs[records[0].key]
    assert (found["seconds"], found["megabytes"]) == pytest.approx((online.seconds, online.bytes / 1e6), rel=1e-5)
    assert found["computation"] + found["wire"] + found["rounds"] == pytest.approx(found["seconds"], rel=1e-4)
    assert found["messages"] == 2 * 17 + 2 and found["live"] == 17
    assert costs[records[1].key] == {**dict.fromkeys(found), "live": 17}
    assert data["panels"][0]["levels"][0]["predicted"]["megabytes"] == pytest.approx(1184 * 139_264 / 1e6, rel=1e-5)
    assert data["inferences"] is None


def printed(records, preset, width):
    file = io.StringIO()
    print_runs(records, Console(file=file, width=width, force_terminal=True), preset)
    return Text.from_ansi(file.getvalue()).plain


def test_the_terminal_table_fits_a_hundred_columns():
    name = "senet_short+distill-resnet18-cifar10-13926-s0"
    records = [fake_record("senet_short+distill", 13_926, name=name), fake_record("snl", 70_000)]
    *table, said = printed(records, one_preset("delphi_wan"), 100).splitlines()
    assert max(map(len, table)) <= 100
    text = "\n".join(table)
    assert "…" not in text and "PI s" in text and "PI MB" in text and "method" not in text
    assert text.replace("\n", "").count("16.5") == 1, "1184 bytes times 13,926"
    assert said.startswith("PI: private inference of one image online, predicted for delphi_wan: Delphi")


def test_columns_that_say_nothing_new_are_left_out():
    text = printed([fake_record(name="mine")], one_preset("delphi_compute"), 200)
    assert "method" in text and "PI s" in text and "PI MB" not in text and "asked" not in text
    missed = fake_record()
    budget = missed.budget.model_copy(update={"asked": missed.budget.met + 1})
    assert "asked" in printed([missed.model_copy(update={"budget": budget})], one_preset(), 200)
    assert " - " in printed([unknown(fake_record())], one_preset(), 200)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_command_takes_preset_network_and_out(tmp_path, capsys):
    runs = write_records([fake_record(), fake_record("random")], tmp_path / "runs")
    report_command([str(runs), "preset=delphi_compute", f"out={tmp_path / 'a'}"])
    text = capsys.readouterr().out
    assert "delphi_compute is computation alone" in text and "PI MB" not in text
    assert not {"pareto_bytes.png", "latency_split.png"} & {path.name for path in (tmp_path / "a").iterdir()}
    report_command([str(runs), "preset=delphi", "network={rtt_ms:10,mbps:500}", f"out={tmp_path / 'b'}"])
    text = capsys.readouterr().out
    assert "delphi_10ms-500mbps" in text and str(tmp_path / "b" / "pareto_bytes.png") in text
    assert "delphi_10ms-500mbps_s" in (tmp_path / "b" / "pareto.csv").read_text().splitlines()[0]
    assert sorted(path.name for path in runs.iterdir()) == ["run-000", "run-001"]


@pytest.mark.usefixtures("undrawn")
def test_unknown_networks_have_no_figures_of_costs(tmp_path):
    paths = write_report(Report([write_records([unknown(fake_record())], tmp_path / "runs")]), tmp_path / "out")
    assert list(paths) == ["pareto.csv", "pareto.png", "report.html"]
