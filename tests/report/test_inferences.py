"""Measured inferences: found beside the runs, in tables, pictures and the page."""

import csv
import io
import json
import logging
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from fake_inferences import fake_inference, write_inference
from fake_records import fake_record, fake_sweep, write_records
from test_page import NASTY, Page

from relinearize.private_inference.cost.presets import one_preset, predict
from relinearize.records.inference import SHARED
from relinearize.report.figures.costs import draw_inference, draw_inference_split
from relinearize.report.page.page import render_page
from relinearize.report.report import Report, write_report
from relinearize.report.sources import find_inferences
from relinearize.report.tables.cost import record_workload
from relinearize.report.tables.inference import build_inferences, curves, inference_markdown, inference_texts
from relinearize.report.tables.pareto import build_panels, run_table
from relinearize.report.tables.text import csv_text


def measured(*runs, settings=(("semi2k", "wan"),), **options):
    found = [fake_inference(run, *setting, **options) for run in runs for setting in settings]
    return build_inferences(found, run_table(runs))


def without_run(record, **changes):
    return build_inferences([replace(record, **changes)], pd.DataFrame())


def test_they_are_found_once_and_know_their_runs(tmp_path, caplog):
    runs = fake_sweep(methods=("snl",), budgets=(70_000, 3_500), seeds=(0,))
    write_records(runs, tmp_path)
    for place, run in enumerate(runs):
        write_inference(fake_inference(run), tmp_path / f"run-{place:03d}")
    write_inference(fake_inference(runs[0], "cheetah"), tmp_path / "run-000")
    broken = write_inference(fake_inference(runs[0], "cheetah", "lan"), tmp_path / "run-000") / "inference.json"
    broken.write_text("{}")
    with caplog.at_level(logging.WARNING):
        found = build_inferences(find_inferences([tmp_path, tmp_path / "run-000"]), run_table(runs))
    assert list(found["setting"]) == ["cheetah wan", "semi2k wan", "semi2k wan"]
    assert list(found["relus"]) == [70_000, 70_000, 3_500]
    assert list(found["run_key"]) == [run.key for run in (runs[0], *runs)] and str(broken) in caplog.text
    assert len(find_inferences([tmp_path / "run-001" / "record.json"])) == 1, "a record stands for its folder"


def test_curves_are_of_protocol_network_and_what_else_differs():
    runs = fake_sweep(methods=("snl",), budgets=(70_000, 3_500), seeds=(0,))
    both = (("semi2k", "wan"), ("cheetah", "wan"))
    found = {key: list(group["relus"]) for key, group in curves(measured(*runs, settings=both)).items()}
    assert found == {(setting, ""): [3_500, 70_000] for setting in ("cheetah wan", "semi2k wan")}
    some = pd.concat([measured(*runs, settings=both), measured(fake_record("random"))])
    assert set(curves(some)) == {("cheetah wan", "snl"), ("semi2k wan", "snl"), ("semi2k wan", "random")}
    assert set(curves(measured(*runs, kn2row=True))) == {("semi2k+kn2row wan", "")}
    record = fake_inference(runs[0])
    assert curves(without_run(record, bundle={**record.bundle, "test_accuracy": None})) == {}


def test_narrower_students_are_on_the_curve_of_their_method():
    """DeepReDuce's at two budgets, of two widths: bundles have the student's width, panels the teacher's."""
    runs = fake_sweep(methods=("deepreduce",), budgets=(70_000, 3_500), seeds=(0,))
    records = [fake_inference(run) for run in runs]
    records = [replace(one, bundle=one.bundle | {"width": width}) for one, width in zip(records, (64, 32), strict=True)]
    assert list(curves(build_inferences(records, run_table(runs)))) == [("semi2k wan", "")]


def test_a_copied_folder_adds_nothing(tmp_path):
    run = fake_record("snl", 14_000)
    write_records([run], tmp_path)
    write_inference(fake_inference(run), tmp_path / "run-000")
    shutil.copytree(tmp_path / "run-000", tmp_path / "copy")
    assert len(find_inferences([tmp_path])) == 1
    write_inference(fake_inference(run, load=3.0), tmp_path / "again")
    assert len(find_inferences([tmp_path])) == 2, "measured twice"


def met_by(run, met):
    """A search that ends near its budget, and with each seed elsewhere: what it kept less comes off the first site."""
    first, *sites = run.sites
    fewer = first.model_copy(update={"kept": first.kept - (run.budget.met - met)})
    budget = run.budget.model_copy(update={"met": met, "reached": False})
    return run.model_copy(update={"sites": [fewer, *sites], "budget": budget})


def test_seeds_are_one_point_and_variants_curves_of_their_own():
    mets = {70_000: (69_990, 69_970, 69_980), 3_500: (3_499, 3_498, 3_500)}
    runs = [met_by(fake_record("snl", asked, seed), met) for asked, own in mets.items() for seed, met in enumerate(own)]
    some = measured(*runs)
    ((key, points),) = curves(some).items()
    assert key == ("semi2k wan", "") and list(points["relus"]) == [3_499, 69_980]
    for point in points.itertuples():
        own = some[some["asked"] == point.asked]
        assert sorted(own["seed"]) == [0, 1, 2] and sorted(point.rows) == sorted(own.index)
        for name in ("test_accuracy", "steady_mb", "steady_s", "predicted_mb", "predicted_s"):
            assert getattr(point, name) == pytest.approx(sum(own[name]) / 3), name
    found = json.loads(Page(render_page(build_panels(runs), {}, inferences=some)).data)["inferences"]["rows"]
    assert [row["curve"]["point"] for row in found] == [1, 1, 1, 0, 0, 0] and len(
        {row["accuracy"] for row in found}
    ) > 2
    slower = [fake_record("snl", asked, seed, finetune_lr=0.01) for asked in mets for seed in (0, 1)]
    both = curves(measured(*runs, *slower))
    kinds = [f"snl [finetune.lr={rate}]" for rate in (0.001, 0.01)]
    assert [(kind, len(points)) for (_, kind), points in both.items()] == [(kind, 2) for kind in kinds]


def culled(run):
    """The same number of ReLUs, those of the first site at the last one, under an allocation."""
    first, *sites, last = run.sites
    sites = [first.model_copy(update={"kept": 0}), *sites, last.model_copy(update={"kept": last.kept + first.kept})]
    method = run.method.model_copy(update={"name": f"{run.method.name}+sites"})
    config = {**run.config, "allocation": {"name": "sites"}}
    return run.model_copy(update={"key": f"culled-{run.key}", "sites": sites, "method": method, "config": config})


def test_a_method_and_its_culled_networks_are_one_curve_at_each_number_of_relus():
    large, small = fake_sweep(methods=("snl",), budgets=(70_000, 3_500), seeds=(0,))
    ((key, found),) = curves(measured(small, culled(small))).items()
    assert key == ("semi2k wan", "") and list(found["live_sites"]) == [len(small.sites) - 1, len(small.sites)]
    both = curves(measured(large, culled(large), small, culled(small)))
    assert {kind: len(rows) for (_, kind), rows in both.items()} == {"70,000 ReLUs": 2, "3,500 ReLUs": 2}


def test_predictions_are_those_of_the_cost_model():
    run = fake_record("snl", 14_000)
    cost, record = predict(one_preset("semi2k_wan"), record_workload(run)).online, fake_inference(run)
    (one,) = measured(run).itertuples()
    assert (one.predicted_s, one.predicted_mb) == (cost.seconds, cost.bytes / 1e6)
    assert measured(run, kn2row=True)["predicted_s"].isna().all(), "the constants are without options"
    assert without_run(record)["predicted_s"].isna().all(), "nobody knows the linear part"
    assert build_inferences([replace(record, protocol="aby3")], run_table([run]))["predicted_s"].isna().all()


def test_a_batch_is_shown_per_image_and_is_a_curve_of_its_own():
    (run,) = fake_sweep(methods=("snl",), budgets=(70_000,), seeds=(0,))
    one = fake_inference(run)
    eight = replace(one, batch=8, steady=replace(one.steady, seconds_per_image=one.steady.median_seconds / 8))
    alone, batch = (build_inferences([record], run_table([run])).iloc[0] for record in (one, eight))
    assert (alone.protocol, batch.protocol) == ("semi2k", "semi2k+batch8") and batch.predicted_s is None
    for column in ("steady_mb", "relu_mb", "steady_s", "linear_s", "loopback_s", "model_s"):
        assert batch[column] == pytest.approx(alone[column] / 8), column
    assert batch.messages == alone.messages


def test_more_threads_are_a_curve_of_their_own_and_no_prediction_is_of_them():
    run = fake_record("snl", 14_000)
    one, four = (replace(fake_inference(run), machine={"load_before": 0.5, "cores": 4, "threads": n}) for n in "14")
    found = build_inferences([one, four], run_table([run]))
    assert list(found["protocol"]) == ["semi2k", "semi2k+threads4"] and len(curves(found)) == 2
    assert list(found["predicted_s"].isna()) == [False, True]


def test_csv_and_table_say_what_was_measured():
    run = fake_record("snl", 14_000, name="a|b")
    first, second = fake_inference(run, load=7.25), fake_inference(run, "cheetah", "loopback", private=None)
    some = build_inferences([first, second], run_table([run]))[::-1]
    wan, loopback = csv.DictReader(io.StringIO(csv_text(some.loc[:, :"created"])))
    assert (wan["protocol"], wan["network"], wan["relus"], wan["live_sites"]) == ("semi2k", "wan", "14000", "17")
    assert float(wan["steady_mb"]) == pytest.approx(10 + 0.144 * 14) and float(wan["relu_mb"]) == pytest.approx(2.016)
    assert float(wan["first_mb"]) == pytest.approx(30 + 2.016)
    seconds = 1.14 + 178 * 0.02
    assert float(wan["steady_s"]) == pytest.approx(seconds) and float(wan["outside_s"]) == pytest.approx(0.1 * seconds)
    assert float(wan["model_s"]) == pytest.approx(0.95 * seconds) and wan["load_before"] == "7.25"
    assert (wan["private_accuracy"], wan["images"], loopback["private_accuracy"]) == ("90.0", "20", "")
    text = inference_markdown(some)
    shown, other = inference_texts(some).to_dict("records")
    assert text.count(" | ".join(shown)) == 1 and "a\\|b" in text
    assert shown["private accuracy"] == "90.0 % of 20 (plaintext 91.0 %)" and shown["same class"] == "95.0 % of 20"
    assert shown["MB first / steady"] == "32.02 / 12.02" and shown["load before"] == "7.2 on 2 cores"
    assert (other["seconds by the model"], other["private accuracy"]) == ("-", "-")


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_pictures_are_drawn_in_every_case():
    runs = fake_sweep(methods=("snl", "random"), budgets=(70_000, 3_500), seeds=(0,))
    both = (("semi2k", "wan"), ("cheetah", "loopback"))
    digits = measured(fake_record(dataset="digits", title="digits"), load=5)
    unknown = fake_inference(fake_record())
    nameless = without_run(unknown, bundle={**unknown.bundle, "title": "", "test_accuracy": None})
    for some in (measured(*runs, settings=both), pd.concat([digits, nameless])):
        for picture in (draw_inference(some), draw_inference_split(some)):
            assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_the_page_has_a_section_and_names_stay_text():
    runs = [fake_record("snl", budget, name=NASTY) for budget in (70_000, 3_500)]
    some = measured(*runs, settings=(("semi2k", "wan"), ("cheetah", "wan")))
    text = render_page(build_panels(runs), {}, inferences=some)
    assert [tag for tag, _ in Page(text).tags] == [tag for tag, _ in Page(render_page(build_panels(runs), {})).tags]
    found = json.loads(Page(text).data)["inferences"]
    assert len(found["rows"]) == 4 and {len(row["cells"]) for row in found["rows"]} == {len(found["columns"])}
    assert {row["curve"]["label"] for row in found["rows"]} == {"semi2k wan", "cheetah wan"}
    assert len({row["curve"]["colour"] for row in found["rows"]}) == 2
    for row in found["rows"]:
        assert sum(row["bytes"].values()) == pytest.approx(row["measured"]["megabytes"])
        *layers, together = row["layers"]
        assert layers[-1][0] == "rest" and {len(cells) for cells in row["layers"]} == {len(found["layerColumns"])}
        assert together[4] == f"{row['measured']['megabytes']:.1f}" and row["layersAre"] == SHARED
        assert sum(row["seconds"].values()) == pytest.approx(row["measured"]["seconds"])
        assert row["name"] == NASTY and row["run"] in {run.key for run in runs}
        assert row["title"] == runs[0].dataset.title
    text = render_page(build_panels(runs[:1]), {}, inferences=measured(fake_record(title="X")))
    (stranger,) = json.loads(Page(text).data)["inferences"]["rows"]
    assert stranger["title"] is None, "of no dataset of the page: shown with each"


def test_the_report_writes_them(tmp_path):
    runs = fake_sweep(methods=("snl",), budgets=(14_000,), seeds=(0,))
    write_records(runs, tmp_path)
    write_inference(fake_inference(runs[0]), tmp_path / "run-000")
    paths = write_report(Report([tmp_path]), tmp_path / "out")
    names = ["inference.md", "inference.csv", "inference_split.png", "inference.png"]
    assert [name for name in paths if name.startswith("inference")] == names
    assert all(paths[name].stat().st_size > 500 for name in names)
