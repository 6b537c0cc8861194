"""Curves against predicted latency and bytes, the parts of a latency, and the columns for people."""

import io
import json

import pytest
from fake_records import fake_record, fake_sweep, write_records
from rich.console import Console
from rich.text import Text
from test_page import Page

from relinearize import cli
from relinearize.errors import UserError
from relinearize.private_inference.cost.choice import one_preset
from relinearize.report.figures.axes import RELUS, cost_axes, covered
from relinearize.report.figures.latency import draw_split
from relinearize.report.figures.pareto import draw_pareto
from relinearize.report.figures.stacked_bars import MOST
from relinearize.report.page.page import render_page
from relinearize.report.report import make_report
from relinearize.report.tables.cost import predicted
from relinearize.report.tables.latency_split import latency_splits
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.terminal import print_runs
from relinearize.report.write import write_report


def unknown(record):
    """Nobody knows the linear part of its network."""
    return record.model_copy(update={"backbone": record.backbone.model_copy(update={"name": "mine"})})


def test_points_and_all_relu_networks_have_their_places():
    records = fake_sweep(methods=("snl",), seeds=(0, 1))
    (panel,) = build_panels(records)
    (level,) = panel.all_relu_levels()
    axes = cost_axes(one_preset("delphi_wan"))
    for point in panel.series[0].points:
        assert axes["bytes"].at(point) == pytest.approx(1184 * point.asked / 1e6)
        costs = [predicted(record, one_preset("delphi_wan")).online.seconds for record in point.records]
        assert axes["latency"].at(point) == pytest.approx(sum(costs) / 2)
        assert RELUS.at(point) == point.asked
    assert (RELUS.of_level(level), axes["bytes"].of_level(level)) == (139_264, pytest.approx(1184 * 139_264 / 1e6))
    assert axes["latency"].of_level(level) > max(map(axes["latency"].at, panel.series[0].points))


def test_computation_alone_has_no_bytes_and_unknown_networks_no_place():
    assert list(cost_axes(one_preset("delphi_compute"))) == ["latency"]
    known, other = build_panels([fake_record(), unknown(fake_record(dataset="digits", title="digits"))])
    axis = cost_axes(one_preset())["bytes"]
    assert covered(axis, [known, other]) == [known] and covered(RELUS, [known, other]) == [known, other]


def test_an_axis_of_costs_is_logarithmic_where_that_helps():
    axis = cost_axes(one_preset())["latency"]
    assert axis.logarithmic(1, 5) and not axis.logarithmic(14, 17) and not axis.logarithmic(0, 5)
    assert RELUS.logarithmic(14, 17)


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
    assert draw_split(splits, one_preset()) != draw_split(splits * MOST, one_preset())


def test_the_parts_of_a_latency_make_the_whole():
    records = [*fake_sweep(methods=("snl",), budgets=(70_000, 3_500)), unknown(fake_record("x"))]
    panels, preset = build_panels(records), one_preset("semi2k")
    splits = latency_splits(panels, preset)
    assert [(split.title, split.label[:3], split.label[-3:]) for split in splits] == [
        ("CIFAR-10 (JPEG)", "snl", "70K"),
        ("CIFAR-10 (JPEG)", "snl", ".5K"),
    ]
    whole = cost_axes(preset)["latency"].at(panels[0].series[0].points[0])
    assert splits[0].computation + splits[0].wire + splits[0].rounds == pytest.approx(whole)
    assert splits[0].rounds == splits[1].rounds > 0, "all sites keep some"
    assert latency_splits(panels, one_preset("delphi_compute")) == []


def test_runs_with_another_choice_of_sites_are_another_curve():
    free = fake_record("snl", 14_000)
    config = {**free.config, "allocation": {"name": "sites", "_target_": "x.FewerSites", "live": 6}}
    sites = fake_record("snl", 7_000).model_copy(update={"config": config})
    today = fake_record("snl", 3_500).model_copy(update={"config": {**free.config, "allocation": {"name": "free"}}})
    (panel,) = build_panels([free, sites, today])
    labels = {panel.label(series): len(series.points) for series in panel.series}
    assert labels == {"snl [allocation=free]": 2, "snl [allocation=sites live=6]": 1}


def test_the_page_has_the_same_numbers():
    records = [fake_record("snl", 14_000), unknown(fake_record("x"))]
    data = json.loads(Page(render_page(build_panels(records), {}, preset=one_preset("delphi_lan"))).data)
    assert data["preset"]["name"] == "delphi_lan" and "1 ms RTT" in data["preset"]["text"]
    costs = {run["key"]: run["predicted"] for run in data["runs"]}
    online = predicted(records[0], one_preset("delphi_lan")).online
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


def test_the_command_takes_preset_network_and_out(tmp_path, capsys):
    runs = write_records([fake_record(), fake_record("random")], tmp_path / "runs")
    cli.report([str(runs), "preset=delphi_compute", f"out={tmp_path / 'a'}"])
    text = capsys.readouterr().out
    assert "delphi_compute is computation alone" in text and "PI MB" not in text
    assert not {"pareto_bytes.png", "latency_split.png"} & {path.name for path in (tmp_path / "a").iterdir()}
    cli.report([str(runs), "preset=delphi", "network={rtt_ms:10,mbps:500}", f"out={tmp_path / 'b'}"])
    text = capsys.readouterr().out
    assert "delphi_10ms-500mbps" in text and str(tmp_path / "b" / "pareto_bytes.png") in text
    assert "delphi_10ms-500mbps_s" in (tmp_path / "b" / "pareto.csv").read_text().splitlines()[0]
    assert sorted(path.name for path in runs.iterdir()) == ["run-000", "run-001"]
    for arguments, message in (
        (["preset=spdz"], "preset=spdz is unknown; valid: "),
        (["published=no"], "published=no: give true or false"),
        (["-x"], "relinearize report FOLDER ..."),
    ):
        with pytest.raises(UserError, match=message):
            cli.report([str(runs), *arguments])


def test_unknown_networks_have_no_figures_of_costs(tmp_path):
    paths = write_report(make_report([write_records([unknown(fake_record())], tmp_path / "runs")]), tmp_path / "out")
    assert list(paths) == ["pareto.csv", "pareto.png", "report.html"]
