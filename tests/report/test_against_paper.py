"""Our runs beside the papers' numbers and recipes: which point a run meets, what is said of it, and where it lands."""

import copy
import csv
import functools
import io
import sys
from pathlib import Path

import pandas as pd
import pytest
from fake_records import fake_record, write_records
from omegaconf import OmegaConf

from relinearize import cli
from relinearize.records.run import Record
from relinearize.report.papers.comparison import (
    COLUMNS,
    PAPER_METHODS,
    against_paper_markdown,
    compare,
    counterpart,
    differences,
    paper_stages,
    paper_width,
    recipe_settings,
    shown_settings,
)
from relinearize.report.papers.published import load_published
from relinearize.report.papers.recipes import (
    NOT_RECORDED,
    PAGE,
    SOURCES,
    blocks,
    composed,
    default_settings,
    page,
    published,
)
from relinearize.report.tables.pareto import run_table
from relinearize.report.tables.text import csv_text

ROOT = Path(__file__).parents[2]


@functools.cache
def of_the_code(method, dataset, backbone):
    """The config of the paper's experiment with every setting as in the official code."""
    config = composed(f"experiment=paper/{method}_cifar100_resnet18")
    config = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("method", "dataset", "backbone")}
    for key in {key for block in blocks() if method in block.methods for key in block.settings}:
        found = published(method, dataset, backbone, key)
        if key.startswith(("method", "dataset", "backbone")):
            put(config, key.split("."), next(found[source] for source in SOURCES if source in found)[-1])
    return config | {"sensitivity": {"_target_": "relinearize.methods.senet.released.ReleasedList"}}


def put(values, path, value):
    *parents, last = path
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def paper_like(method="snl", asked=50_000, backbone="resnet18", changes=(), **options):
    """A made-up record with the official code's settings, but for `changes` (path of a value -> value)."""
    options = {"dataset": "cifar100", "title": "CIFAR-100", "width": 64, "convention": "snl", **options}
    values = fake_record(method, asked, holdout=False, **options).model_dump(mode="json")
    if method in PAGE and options["dataset"] != "digits":
        values["method"] |= paper_stages(method)
        values["config"] = copy.deepcopy(of_the_code(method, options["dataset"], backbone))
        values["config"]["backbone"]["convention"] = options["convention"]
    values["backbone"]["name"] = backbone
    values["accuracy"]["selection"] = "test"
    for key, value in dict(changes).items():
        put(values, key.split("/"), value)
    return Record.model_validate(values)


def like(*arguments, **options):
    """paper_like(...) to be called in the test: its recipes come from composed configs, which takes seconds."""
    return functools.partial(paper_like, *arguments, **options)


def compared(records):
    return compare(run_table(records))


@pytest.mark.parametrize(
    ("make", "relus", "accuracy"),
    [
        (like(asked=50_000), 49_400, 73.75),
        (like(asked=13_000), 12_900, 66.53),
        (like(asked=13_000, changes={"method/name": "snl+distill"}), 12_900, 66.53),
        (like(asked=250_000, backbone="wrn22_8", changes={"backbone/width": 16}), 248_400, 77.70),
        (like(asked=100_000, dataset="tiny_imagenet", title="Tiny-ImageNet", image_size=64), 100_000, 58.94),
        (like("senet", 49_968, convention="senet"), 49_600, 75.28),
        (like("senet", 82_000, convention="senet", dataset="cifar10", title="CIFAR-10"), 82_000, 93.05),
        # Other images and another convention are still compared; the line says so.
        (like(asked=50_000, title="CIFAR-100 (JPEG)", convention="senet"), 49_400, 73.75),
    ],
)  # fmt: skip
def test_a_run_meets_its_published_point(make, relus, accuracy):
    point, _ = counterpart(make())
    assert (point.relus, point.accuracy) == (relus, accuracy)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (like(width=16, asked=50_000), "width 16, the paper's is 64"),
        (like(asked=45_000), "45,000 ReLUs; the nearest published budget is 49,400"),
        (like("senet", 25_330, convention="senet"), "25,330 ReLUs; the nearest published budget is 24,600"),
        (like(changes={"method/finetune": "PRAMDistill"}), "finetune is PRAMDistill, SNL's is Distill"),
        (like(changes={"method/search": "RandomMask"}), "search is RandomMask, SNL's is SNLSearch"),
        (like(backbone="resnet34"), "SNL has no point with resnet34"),
        (like("senet", backbone="resnet34"), "SENet has no point with resnet34"),
        (like(changes={"config/allocation": {"name": "sites"}}), "allocation is sites, SNL's is free"),
        (like("rlnet"), "no accuracies of RLNet are known"),
        (like("random"), "random is no paper's method"),
        (like(dataset="digits", title="Digits", image_size=8, asked=1000), "nothing is published on Digits at 8"),
        (like(image_size=64, asked=50_000), "nothing is published on CIFAR-100 at 64 pixels"),
    ],
)
def test_other_runs_have_no_counterpart_and_a_reason(make, reason):
    point, why = counterpart(make())
    assert point is None and why.startswith(reason)


ALONE = ["the paper does not state the network of this point"]


def test_nothing_differs_but_what_the_paper_leaves_open():
    record = paper_like(asked=49_400)
    assert differences(record, counterpart(record)[0]) == ALONE
    assert not [setting for setting in recipe_settings(record) if setting.verdict != "equal"]
    assert len(recipe_settings(record)) > 35  # every key of the three stages, the images and the network


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (like(title="CIFAR-100 (JPEG)"), "images CIFAR-100 (JPEG) (paper: CIFAR-100)"),
        (like(changes={"dataset/train": 9_000}), "9,000 training images (paper: 50,000)"),
        (like(asked=50_000), "50,000 ReLUs (paper: 49,400)"),
        (like(asked=200_000, dataset="tiny_imagenet", title="T", image_size=64), "200,000 ReLUs (paper: 198,100)"),
        (like(changes={"method/teacher": "file"}), "teacher from a file"),
        (like("senet", 49_600, convention="senet"), "the paper's number has medium confidence (secondary)"),
    ],
)  # fmt: skip
def test_what_differs_is_said(make, said):
    record = make()
    assert said in differences(record, counterpart(record)[0])


SEARCH = "config/method/search"
SENET = {"method": "senet", "asked": 49_600, "convention": "senet"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (like(convention="senet"), "backbone.convention senet (code: snl)"),
        (like(changes={"config/method/finetune/selection": "best"}), "finetune.selection best (code: test)"),
        (like(changes={"config/method/finetune/epochs": 20}), "finetune.epochs 20 (code: 100)"),
        (like(changes={f"{SEARCH}/lasso": "1e-3"}), "search.lasso 0.001 (code: 1e-05)"),
        (like(changes={f"{SEARCH}/paper_parity": False, f"{SEARCH}/checks_per_epoch": 8}),
         "search.checks_per_epoch 8 (code: 1); search.paper_parity false (code: true)"),
        (like(changes={"config/method/teacher/schedule": "cosine"}), "teacher.schedule cosine (code: milestones)"),
        (like(changes={f"{SEARCH}/checks_per_epoch": 8}), ""),  # paper_parity looks once an epoch, whatever this says
        (like(**SENET, changes={f"{SEARCH}/paper_parity": False, f"{SEARCH}/mismatch": "linear"}),
         "search.mismatch linear (code: activation)"),
        (like(**SENET, changes={f"{SEARCH}/paper_parity": False, f"{SEARCH}/start": "teacher"}),
         "search.start teacher (code: scratch, unverified: teacher)"),
        (like(**SENET, changes={f"{SEARCH}/paper_parity": True, f"{SEARCH}/start": "teacher"}), ""),
        (like(**SENET, changes={f"{SEARCH}/schedule": "milestones", f"{SEARCH}/milestones": [0.5]}),
         "search.schedule milestones (code: constant); search.milestones [0.5] (code: [1, 1.2, 1.4])"),
        (like(**SENET, changes={"config/sensitivity": {"_target_": "a.SparseTraining", "density": 0.1}}),
         "sensitivity SparseTraining (code: ReleasedList, unverified: SparseTraining)"),
        (like(**SENET, changes={"config/backbone/student_skip": True}), "backbone.student_skip true (code: false)"),
        (like(changes={"config/allocation": {"name": "sites"}}), "allocation sites (code: free)"),
        (like("rlnet", 50_000, convention="senet", changes={"config/method/teacher/attack/steps": 10}),
         "teacher.attack.steps 10 (code: 7)"),
    ],
)  # fmt: skip
def test_every_setting_is_compared_with_the_recipe(make, said):
    found = [str(setting) for setting in recipe_settings(make()) if setting.verdict == "differs"]
    assert sorted(found) == sorted(said.split("; ") if said else [])


def verdicts(record, verdict):
    return {setting.key: setting.ours for setting in recipe_settings(record) if setting.verdict == verdict}


def test_what_no_recipe_says_is_not_known_and_not_equal():
    parts = {"_target_": "a.SparseTraining", "density": 0.1, "updates_per_epoch": 4}
    record = paper_like(**SENET, changes={"config/sensitivity": parts, f"{SEARCH}/own_key": 1})
    assert verdicts(record, "not known") == {"sensitivity.updates_per_epoch": 4, "method.search.own_key": 1}
    assert verdicts(record, "unverified") == {"sensitivity.density": 0.1}  # only remembered
    del record.config["method"]["search"]["mismatch"]  # of an older program
    assert verdicts(record, "not known")["method.search.mismatch"] == NOT_RECORDED


def test_what_is_released_for_another_network_is_unverified():
    """SNL's scripts are for ResNet-18 and CIFAR-100."""
    record = paper_like(asked=250_000, backbone="wrn22_8", changes={"backbone/width": 16})
    found = verdicts(record, "unverified")
    assert found["method.finetune.epochs"] == 100 and "dataset.mean" not in found and len(found) > 20
    assert not verdicts(record, "differs")


def test_the_all_relu_network_is_compared_by_its_teacher():
    network = {
        "method/name": "all-relu",
        "method/search": "AllReLUs",
        "config/method/search": {"_target_": "a.AllReLUs"},
    }
    record = paper_like(asked=491_520, changes=network | {"config/method/teacher/epochs": 30})
    assert counterpart(record)[0].accuracy == 76.04
    assert [str(setting) for setting in recipe_settings(record) if setting.verdict != "equal"] == [
        "teacher.epochs 30 (code: 160)"
    ]


def test_runs_of_other_methods_have_no_recipe():
    assert recipe_settings(paper_like("random")) == []
    assert recipe_settings(paper_like(changes={"method/finetune": "Retrain"})) == []


def test_settings_are_listed_with_the_runs_that_have_them():
    changes = {f"{SEARCH}/lasso": 1e-4, f"{SEARCH}/own_key": 1}
    table = compared([paper_like(asked=50_000), paper_like(asked=13_000, changes=changes), paper_like("random")])
    shown = shown_settings(table).values.tolist()
    run = paper_like(asked=13_000).name
    assert shown == [
        ["differs", "search.lasso", "0.0001", "1e-05", "", "", run],
        ["not known", "search.own_key", "1", "", "", "", run],
    ]
    text = against_paper_markdown(table)
    assert f"| differs | search.lasso | 0.0001 | 1e-05 |  |  | {run} |" in text
    assert "settings: search.lasso; 1 settings not known" in text
    rows = csv.DictReader(io.StringIO(csv_text(table, COLUMNS)))
    assert [row["settings_differ"] for row in rows if row["run"] == run] == ["search.lasso 0.0001 (code: 1e-05)"]


def test_one_line_per_run_with_the_difference():
    text = against_paper_markdown(compared([paper_like(asked=50_000), paper_like(asked=50_000, width=16)]))
    record = paper_like(asked=50_000)
    line = next(line for line in text.splitlines() if "49,400" in line)
    assert f"| {record.accuracy.test:.2f} | 49,400 | 73.75 | {record.accuracy.test - 73.75:+.2f} |" in line
    assert text.count("49,400 | 73.75") == 1 and "width 16, the paper's is 64" in text
    assert "- SNL: Fig.3 Pareto plot" in text  # where the number is from


def test_csv_has_a_line_for_every_run_and_no_text_without_runs():
    rows = list(csv.DictReader(io.StringIO(csv_text(compared([paper_like(), paper_like("random")]), COLUMNS))))
    assert [(row["method"], row["paper_accuracy"]) for row in rows] == [("snl", "73.75"), ("random", "")]
    assert float(rows[0]["difference"]) == pytest.approx(float(rows[0]["accuracy"]) - 73.75)
    assert rows[1]["no_counterpart"] == "random is no paper's method"
    assert "No run has a published counterpart" in against_paper_markdown(compared([paper_like("random")]))


@pytest.mark.usefixtures("undrawn")
def test_the_command_prints_and_writes_both_lists(tmp_path, monkeypatch, capfd):
    folder = write_records([paper_like(asked=50_000), paper_like("random")], tmp_path / "runs")
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", ["relinearize", "report", "--against-paper", str(folder)])
    cli.main()
    printed = capfd.readouterr().out
    assert "49,400" in printed and "73.75" in printed and "random is no paper's method" in printed
    for name in ("against_paper.md", "against_paper.csv"):
        assert str(folder / name) in printed and "73.75" in (folder / name).read_text()
    with pytest.raises(SystemExit):
        monkeypatch.setattr(sys, "argv", ["relinearize", "report", "--against-papers", str(folder)])
        cli.main()
    error = capfd.readouterr().err
    assert len(error.splitlines()) == 1 and "[--against-paper]" in error


def test_widths_and_stages_of_the_papers():
    assert [paper_width(name) for name in ("resnet18", "resnet34", "wrn22_8", "vgg16_bn")] == [64, 64, 16, 64]
    assert paper_stages("senet") == {"search": "SENetSearch", "finetune": "PRAMDistill", "teacher": "Classifier"}


ROOTS = ("method", "dataset", "backbone", "sensitivity", "allocation", "replacement")


def test_the_table_of_recipes_is_well_formed():
    for block in blocks():
        assert block.source in SOURCES and block.note and block.settings
        assert set(block.methods) <= {*PAGE, "senetpp"}
        assert all(key.split(".")[0] in ROOTS for key in block.settings)


def test_parity_in_the_table_is_what_the_searches_do():
    from relinearize.methods.senet.search import PARITY, STAGE_PARITY

    wanted = {f"method.search.{key}": value for key, value in (PARITY | STAGE_PARITY).items()}
    also = {"method.search.select_by": "clean", "method.search.attack_order": "last"}
    for method, more in (("senet", {}), ("rlnet", also)):
        held = [block.settings for block in blocks() if block.parity and method in block.methods]
        assert {key: value for settings in held for key, value in settings.items()} == wanted | more


def test_readme_names_what_differs_by_default():
    text = (ROOT / "README.md").read_text().partition("## Reproduction status")[2].partition("## ")[0]
    for method in ("snl", "senet", "rlnet"):
        number = sum(setting.verdict == "differs" for setting in default_settings(method))
        assert f"`{method}` in {number}" in text


@pytest.mark.slow
def test_the_docs_are_generated_from_the_table():
    assert (ROOT / "docs/recipes.md").read_text() == page()


def test_every_point_of_the_three_papers_is_some_runs_counterpart():
    names = {name: method for method, name in PAPER_METHODS.items()} | {"SNL (independent rerun)": "snl"}
    for _, point in load_published().iterrows():
        if point.method not in names:
            continue
        backbone = "wrn22_8" if point.backbone == "wrn22_8" or point.relus > 400_000 else "resnet18"
        options = {"image_size": 64 if point.dataset == "tiny_imagenet" else 32, "dataset": point.dataset, "title": "x"}
        # The made-up sites are ResNet-18's whatever the backbone; up to 491,520 of them, near enough to SNL's 500K.
        changes = {"backbone/width": paper_width(backbone)}
        met = point.relus if pd.isna(point.met) else int(point.met)
        record = paper_like(names[point.method], met, backbone, changes, **options)
        assert counterpart(record)[0].equals(point)
