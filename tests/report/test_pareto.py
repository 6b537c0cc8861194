"""The Pareto table: what is averaged with what."""

import csv
import io
import json
import random

import pytest
from fake_records import BUDGETS, fake_record, fake_sweep
from test_page import Page

from relinearize.records.run import StudentRecord
from relinearize.report.page.page import render_page
from relinearize.report.tables.pareto import build_panels, pareto_table
from relinearize.report.tables.text import csv_text, spread_text


def with_accuracy(record, test):
    return record.model_copy(update={"accuracy": record.accuracy.model_copy(update={"test": test})})


def spread_of(*accuracies):
    """Mean, standard deviation and n of one point whose runs have these accuracies; None where there is none."""
    records = [with_accuracy(fake_record("snl", 7_000, seed), test) for seed, test in enumerate(accuracies)]
    ((point,),) = (panel.points.to_dict("records") for panel in build_panels(records))
    values = (point["accuracy_mean"], point["accuracy_std"], point["n"])
    return tuple(None if value != value else value for value in values)


def test_spread_by_hand():
    assert spread_of(None) == (None, None, 0)
    assert spread_of(None, 3.0) == (3.0, None, 1)
    mean, std, n = spread_of(1.0, 2.0, 4.0, None)
    assert (mean, n) == (pytest.approx(7 / 3), 3)
    assert std == pytest.approx((7 / 3) ** 0.5)
    assert spread_text(90.5, 0.25) == "90.50 ± 0.25" and spread_text(90.5, float("nan")) == "90.50"


def pareto_rows(panels):
    return pareto_table(panels).to_dict("records")


def test_seeds_become_one_point():
    records = [with_accuracy(fake_record("snl", 7_000, seed), 80.0 + seed) for seed in range(3)]
    (row,) = pareto_rows(build_panels(records))
    assert (row["relus"], row["relus_asked"], row["relus_total"], row["n"]) == (7_000, 7_000, 139_264, 3)
    assert (row["accuracy_mean"], row["accuracy_std"], row["seeds"]) == (81.0, 1.0, "0 1 2")
    assert row["relus_percent"] == pytest.approx(5.0264)
    assert row["all_relu_mean"] == pytest.approx(92.8)
    assert row["drop"] == pytest.approx(11.8)


def test_one_curve_per_method_and_one_row_per_budget():
    panels = build_panels(fake_sweep())
    assert [list(panel.points["method"].unique()) for panel in panels] == [["snl", "random"]]
    assert len(pareto_rows(panels)) == 2 * len(BUDGETS)


def test_order_of_records_does_not_matter():
    records = fake_sweep()
    shuffled = random.Random(1).sample(records, len(records))
    assert pareto_table(build_panels(shuffled)).equals(pareto_table(build_panels(records)))


@pytest.mark.parametrize(
    ("other", "labels"),
    [
        ({"finetune_lr": 0.01}, {"snl [finetune.lr=0.001]", "snl [finetune.lr=0.01]"}),
        ({"width": 64}, {"snl, resnet18 (width 16), senet convention", "snl, resnet18 (width 64), senet convention"}),
        (
            {"convention": "snl"},
            {"snl, resnet18 (width 16), senet convention", "snl, resnet18 (width 16), snl convention"},
        ),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(other, labels):
    (panel,) = build_panels([fake_record(seed=0), fake_record(seed=1, **other)])
    assert set(panel.points["label"]) == labels
    assert [row["n"] for row in pareto_rows([panel])] == [1, 1]


def with_config(record, group, **settings):
    return record.model_copy(update={"config": {**record.config, group: {**record.config.get(group, {}), **settings}}})


@pytest.mark.parametrize(
    ("group", "key", "values", "of_teacher"),
    [
        ("sensitivity", "epochs", (5, 10), False),
        ("replacement", "continuation", (0.7, 1.0), False),
        ("backbone", "student_skip", (True, False), True),
        ("dataset", "augment", ({"crop_padding": 4}, {"crop_padding": 0}), True),
        ("dataset", "short_batch", (None, True), True),
        ("trainer", "devices", (1, 2), True),
        ("callbacks", "stop", (None, {"_target_": "EarlyStopping"}), True),
    ],
)
def test_settings_that_results_depend_on_tell_runs_and_their_teachers_apart(group, key, values, of_teacher):
    records = []
    for seed, value in enumerate(values):
        record = with_config(fake_record(seed=seed), group, **{key: value})
        sites = [site.model_copy(update={"sensitivity": 1.0}) for site in record.sites]
        records.append(record.model_copy(update={"sites": sites}))
    (panel,) = build_panels(records)
    assert list(panel.points["n"]) == [1, 1] and all(f"{group}." in variant for variant in panel.points["variant"])
    assert list(panel.levels["n"]) == ([1, 1] if of_teacher else [2])


def test_sensitivities_that_a_run_has_not_do_not_split_a_curve():
    records = [with_config(fake_record(seed=seed), "sensitivity", epochs=5 + seed) for seed in range(2)]
    assert list(build_panels(records)[0].points["n"]) == [2]


def test_a_profiler_and_callbacks_that_watch_are_no_difference():
    watched = with_config(fake_record(seed=1), "trainer", lightning={"profiler": "simple"})
    watched = with_config(watched, "callbacks", rate={"_target_": "pytorch_lightning.callbacks.LearningRateMonitor"})
    assert list(build_panels([fake_record(seed=0), watched])[0].points["n"]) == [2]


def test_what_settings_were_before_there_was_a_choice_is_no_difference():
    chosen = with_config(fake_record(seed=1), "backbone", student_skip=True, initialisation="he")
    chosen = with_config(chosen, "dataset", short_batch=False)
    assert list(build_panels([fake_record(seed=0), chosen])[0].points["n"]) == [2]


def test_a_curve_is_named_by_as_many_settings_as_tell_it_from_the_others():
    """Two, or three where two curves would have one name."""
    alike = {"crop_padding": 4, "flip": True, "cutout": 0}
    others = [alike, alike | {"crop_padding": 0, "cutout": 8}, alike | {"flip": False}]
    records = [with_config(fake_record(seed=0), "dataset", augment=one) for one in others]
    (panel,) = build_panels(records)
    assert panel.points["variant"].nunique() == 3
    assert {variant.count("=") for variant in panel.points["variant"]} == {3}
    (panel,) = build_panels(records[:2])
    assert {variant.count("=") for variant in panel.points["variant"]} == {2}


def test_a_seed_counts_once():
    """Two runs with one seed that nothing in their records tells apart, of two versions of the program, say."""
    first = fake_record(seed=0)
    again = first.model_copy(update={"key": "f" * 64})
    (panel,) = build_panels([first, again, fake_record(seed=1)])
    assert sorted(panel.points["n"]) == [1, 2]
    assert {"snl [repeat=1]", "snl [repeat=2]"} == set(panel.points["method_name"])


def test_seeds_that_ran_again_are_one_curve_of_the_later_runs():
    """The key says nothing about which run came first."""
    times = {2024: "0", 2026: "f"}
    records = []
    for seed in (0, 1, 2):
        for year, digit in (times if seed else {2024: "f", 2026: "0"}).items():
            record = fake_record(seed=seed)
            changed = {"key": f"{digit}{seed}" * 32, "created": f"{year}-01-01T00:00:00+00:00"}
            records.append(record.model_copy(update=changed))
    (panel,) = build_panels(records)
    assert list(panel.points["n"]) == [3, 3]
    for _, runs in panel.runs.groupby("method_name"):
        assert len({record.created for record in runs["record"]}) == 1


def test_a_class_that_moved_is_no_difference():
    places = ("relinearize.methods.snl.SNLSearch", "relinearize.methods.elsewhere.SNLSearch")
    records = [
        with_config(fake_record(seed=seed), "method", search={"_target_": place}) for seed, place in enumerate(places)
    ]
    assert list(build_panels(records)[0].points["n"]) == [2]
    others = [with_config(fake_record(), "method", search={"_target_": f"own.{name}.Search"}) for name in ("a", "b")]
    others = [record.model_copy(update={"key": str(place)}) for place, record in enumerate(others)]
    assert list(build_panels(others)[0].points["n"]) == [1, 1]


def test_a_network_without_width_makes_no_fractions_of_the_others():
    record = fake_record(seed=1)
    own = record.model_copy(update={"backbone": record.backbone.model_copy(update={"name": "own", "width": None})})
    rows = csv.DictReader(io.StringIO(csv_text(pareto_table(build_panels([fake_record(), own])))))
    assert sorted(row["width"] for row in rows) == ["", "16"]
    assert csv_text([{"width": 16, "share": 0.5}, {"width": None, "share": 1.0}]) == "width,share\n16,0.5\n,1.0\n"


def test_networks_from_weights_are_no_seeds_of_others():
    """Each seed may have a file of its own, but with one or without makes two curves, and two levels."""
    files = (None, "a.pt", "b.pt")
    records = [with_config(fake_record(seed=seed), "backbone", weights=file) for seed, file in enumerate(files)]
    (panel,) = build_panels(records)
    assert sorted(panel.points["n"]) == [1, 2] == sorted(panel.levels["n"])
    assert "backbone.weights=given" in "".join(panel.levels["label"])


def test_one_teacher_from_a_file_counts_once():
    records = []
    for seed in (0, 1):
        record = with_config(fake_record(seed=seed), "teacher", weights="teacher.pt")
        method = record.method.model_copy(update={"teacher": "file"})
        teacher = record.stages["teacher"].model_copy(update={"key": f"{seed}" * 64})
        same = record.accuracy.model_copy(update={"teacher_test": 70.0})
        changed = {"method": method, "stages": record.stages | {"teacher": teacher}, "accuracy": same}
        records.append(record.model_copy(update=changed))
    (panel,) = build_panels(records)
    assert list(panel.levels["n"]) == [1] and list(panel.points["n"]) == [2]


def test_further_routes_have_no_accuracy_of_the_teacher():
    """Older records of adversarial routes have that of its clean route."""
    (panel,) = build_panels([fake_record().model_copy(update={"route": "adversarial"})])
    assert panel.points["all_relu_mean"].isna().all() and panel.levels.empty


def test_images_of_two_sizes_are_told_apart():
    small = fake_record()
    large = small.model_copy(update={"dataset": small.dataset.model_copy(update={"image_size": 64}), "key": "e" * 64})
    titles = [panel.title for panel in build_panels([small, large])]
    assert titles == [f"{small.dataset.title}, {size} pixels" for size in (small.dataset.image_size, 64)]


def test_equal_numbers_are_one_setting():
    values = (1000, 1000.0)
    records = [with_config(fake_record(seed=s), "method", finetune={"weight": one}) for s, one in enumerate(values)]
    (panel,) = build_panels(records)
    assert list(panel.points["n"]) == [2]


def test_a_mean_is_of_all_runs_or_unknown():
    """Three seeds, of one the calibration is not known."""
    records = [fake_record(seed=seed) for seed in range(3)]
    last = records[2].accuracy.model_copy(update={"holdout": None})
    (panel,) = build_panels([*records[:2], records[2].model_copy(update={"accuracy": last})])
    assert list(panel.points["n"]) == [3] and panel.points["holdout_mean"].isna().all()


def test_teachers_of_other_images_are_other_levels():
    """Of 9,000 and of 45,000 training images: no mean of both."""
    few = fake_record(seed=1)
    few = few.model_copy(update={"dataset": few.dataset.model_copy(update={"train": 9_000})})
    (panel,) = build_panels([fake_record(seed=0), few])
    assert list(panel.levels["n"]) == [1, 1]


def test_budget_and_paths_in_the_config_do_not_split_a_curve():
    records = []
    for asked, seed in ((7_000, 0), (14_000, 1)):
        record = with_config(fake_record("snl", asked, seed), "method", name=f"{seed}", seed=seed)
        record.config.update(budget={"relus": asked}, teacher={"weights": f"{seed}.pt"}, output=f"out/{seed}")
        records.append(record)
    (panel,) = build_panels(records)
    assert panel.points["curve"].nunique() == 1


def test_a_setting_of_ones_own_splits_a_curve_whatever_its_name():
    fractions = enumerate((0.3, 0.5))
    records = [with_config(fake_record(seed=seed), "method", search={"fraction": one}) for seed, one in fractions]
    (panel,) = build_panels(records)
    assert sorted(panel.points["variant"]) == ["search.fraction=0.3", "search.fraction=0.5"]


def test_seeds_under_an_allocation_with_a_seed_of_its_own_are_one_point():
    records = []
    for seed in (0, 1):
        learned = {"permutations": 20, "seed": seed}
        record = fake_record("snl+shapley", 7_000, seed)
        records.append(with_config(record, "allocation", name="shapley", sensitivity=learned))
    (panel,) = build_panels(records)
    assert list(panel.points["n"]) == [2] and not panel.points["variant"].any()


def test_the_level_of_all_relus_is_that_of_whatever_route_knows_it():
    """RLNet's further routes have no teacher's accuracy; theirs come first here."""
    known = fake_record("rlnet", 7_000).model_copy(update={"route": "clean"})
    accuracy = known.accuracy.model_copy(update={"teacher_test": None})
    unknown = known.model_copy(update={"route": "adversarial", "accuracy": accuracy})
    for records in ([unknown, known], [known, unknown]):
        renamed = [record.model_copy(update={"key": str(place)}) for place, record in enumerate(records)]
        (panel,) = build_panels(renamed)
        assert list(panel.levels["accuracy_mean"]) == [known.accuracy.teacher_test]


def test_where_only_narrower_students_are_known_the_costs_of_the_level_are_not():
    record = fake_record("deepreduce", 7_000)
    backbone = record.backbone.model_copy(update={"student": StudentRecord(width=8, stride=1)})
    panels = build_panels([record.model_copy(update={"backbone": backbone})])
    data = json.loads(Page(render_page(panels, {})).data)
    assert data["panels"][0]["levels"][0]["predicted"]["live"] is None


def test_hold_out_split_tells_runs_apart():
    (panel,) = build_panels([fake_record(seed=0), fake_record(seed=1, holdout=False)])
    assert panel.points["curve"].nunique() == 2
    assert all(panel.points["variant"])


def test_datasets_are_panels():
    panels = build_panels([fake_record(), fake_record(dataset="cifar100", title="CIFAR-100")])
    titles = {"cifar10": "CIFAR-10 (JPEG)", "cifar100": "CIFAR-100"}
    assert [(panel.dataset, panel.title) for panel in panels] == list(titles.items())


def test_each_teacher_counts_once():
    (panel,) = build_panels(fake_sweep(seeds=(0,)) + fake_sweep(methods=("snl",), budgets=(7_000,), seeds=(1,)))
    (level,) = panel.levels.itertuples()
    assert (level.total, level.n, level.accuracy_mean) == (139_264, 2, pytest.approx(92.7))
    (panel,) = build_panels([fake_record(teacher=False)])
    assert panel.levels.empty


def test_csv_reads_back():
    table = pareto_table(build_panels([fake_record(holdout=False, teacher=False)]))
    (row,) = csv.DictReader(io.StringIO(csv_text(table)))
    assert row["dataset"] == "cifar10"
    assert (row["accuracy_std"], row["holdout_mean"], row["drop"]) == ("", "", "")


def test_runs_of_equal_total_epochs_are_one_curve():
    """What the search took of `total_epochs` follows from the budget, and with it the epochs of the fine-tuning."""
    records = []
    for budget, epochs in ((7_000, 4), (14_000, 6)):
        record = fake_record("snl", budget, 0)
        finetune = record.stages["finetune"].model_copy(update={"epochs": epochs})
        records.append(record.model_copy(update={"stages": {**record.stages, "finetune": finetune}}))
    assert {row["variant"] != "" for row in pareto_rows(build_panels(records))} == {True}
    together = [record.model_copy(update={"config": {**record.config, "total_epochs": 8}}) for record in records]
    assert {row["variant"] for row in pareto_rows(build_panels(together))} == {""}
    other = together[1].model_copy(update={"config": {**together[1].config, "total_epochs": 9}})
    variants = {row["variant"] for row in pareto_rows(build_panels([together[0], other]))}
    assert variants == {"total epochs=8", "total epochs=9"}


@pytest.mark.parametrize(("file", "shown"), [("{}/{}.pt", 40), ("{1}/{0}same.pt", 149)])
def test_a_long_path_in_a_curve_s_name_is_cut_to_its_end_where_that_tells_it_apart(file, shown):
    paths = [file.format("folder/" * 20, seed) for seed in (0, 1)]
    records = [with_config(fake_record(seed=seed), "search", file=path) for seed, path in enumerate(paths)]
    first, second = sorted({row["variant"] for row in pareto_rows(build_panels(records))})
    assert first != second and [len(first), len(second)] == [len("search.file=") + shown] * 2
    assert first.endswith(file.format("folder/", 0)[-12:])
