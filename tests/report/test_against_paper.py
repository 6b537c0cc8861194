"""Our runs beside the papers' numbers: which point a run is compared with, what is said of it, and where it lands."""

import csv
import io
import sys
from functools import partial

import pytest
from fake_records import fake_record, write_records

from relinearize import cli
from relinearize.records.run import Record
from relinearize.report.papers.comparison import (
    PAPER_METHODS,
    against_paper_markdown,
    compare,
    counterpart,
    differences,
    paper_recipe,
    paper_stages,
    paper_width,
)
from relinearize.report.papers.published import load_published
from relinearize.report.tables.pareto import run_table
from relinearize.report.tables.text import csv_text


def paper_like(method="snl", asked=50_000, backbone="resnet18", changes=(), **options):
    """A made-up record that names the paper's own settings, but for `changes` (dotted key -> value)."""
    options = {"dataset": "cifar100", "title": "CIFAR-100", "width": 64, "convention": "snl", **options}
    values = fake_record(method, asked, holdout=False, **options).model_dump(mode="json")
    known = method in PAPER_METHODS and options["dataset"] != "digits"
    if known:
        values["method"] |= paper_stages(method)
    values["backbone"]["name"] = backbone
    values["accuracy"]["selection"] = "test"
    values["config"]["method"] = {"name": method}
    for key, value in (paper_recipe(method, options["dataset"]) if known else {}).items():
        stage, setting = key.split(".")
        values["config"]["method"].setdefault(stage, {})[setting] = value
    for key, value in dict(changes).items():
        *parents, last = key.split("/")
        node = values
        for parent in parents:
            node = node[parent]
        node[last] = value
    return Record.model_validate(values)


def like(*arguments, **options):
    """paper_like(...) to be called in the test: its recipes come from composed configs, which takes seconds."""
    return partial(paper_like, *arguments, **options)


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


def test_nothing_differs_but_what_the_paper_leaves_open():
    record = paper_like(asked=49_400)
    assert differences(record, counterpart(record)[0]) == ["the paper does not state the network of this point"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (like(title="CIFAR-100 (JPEG)"), "images CIFAR-100 (JPEG) (paper: CIFAR-100)"),
        (like(changes={"dataset/train": 9_000}), "9,000 training images (paper: 50,000)"),
        (like(convention="senet"), "convention senet (paper: snl)"),
        (like(asked=50_000), "50,000 ReLUs (paper: 49,400)"),
        (like(changes={"accuracy/selection": "best"}), "chosen on the hold-out (released code: "),
        (like(changes={"accuracy/selection": "last"}), "last epoch (released code: chosen on the test set)"),
        (like(changes={"config/method/finetune/epochs": 20}), "finetune.epochs 20 (paper: 100)"),
        (like(changes={"config/method/search/lasso": "1e-3"}), "search.lasso 0.001 (paper: 1e-05)"),
        (like(changes={"method/teacher": "file"}), "teacher from a file"),
        (like("senet", 49_600, convention="senet"), "the paper's number has medium confidence"),
    ],
)  # fmt: skip
def test_what_differs_is_said(make, said):
    record = make()
    assert any(remark.startswith(said) for remark in differences(record, counterpart(record)[0]))


def test_one_line_per_run_with_the_difference():
    text = against_paper_markdown(compared([paper_like(asked=50_000), paper_like(asked=50_000, width=16)]))
    record = paper_like(asked=50_000)
    line = next(line for line in text.splitlines() if "49,400" in line)
    assert f"| {record.accuracy.test:.2f} | 49,400 | 73.75 | {record.accuracy.test - 73.75:+.2f} |" in line
    assert text.count("49,400 | 73.75") == 1 and "width 16, the paper's is 64" in text
    assert "- SNL: Fig.3 Pareto plot" in text  # where the number is from


def test_csv_has_a_line_for_every_run_and_no_text_without_runs():
    rows = list(csv.DictReader(io.StringIO(csv_text(compared([paper_like(), paper_like("random")])))))
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


def test_the_papers_recipes_are_read_from_the_config_files():
    assert [paper_width(name) for name in ("resnet18", "resnet34", "wrn22_8", "vgg16_bn")] == [64, 64, 16, 64]
    snl, senet = paper_recipe("snl", "cifar100"), paper_recipe("senet", "tiny_imagenet")
    assert (snl["search.lasso"], snl["finetune.epochs"], "search.epochs" in snl) == (1e-5, 100, False)
    assert [senet[f"{stage}.epochs"] for stage in ("teacher", "search", "finetune")] == [120, 100, 120]
    assert paper_recipe("senet", "cifar10")["teacher.epochs"] == 240 and "search.lasso" not in senet
    assert paper_stages("senet") == {"search": "SENetSearch", "finetune": "PRAMDistill", "teacher": "Classifier"}


def test_every_point_of_the_three_papers_is_some_runs_counterpart():
    names = {name: method for method, name in PAPER_METHODS.items()}
    for _, point in load_published().iterrows():
        if point.method not in names:
            continue
        backbone = "wrn22_8" if point.backbone == "wrn22_8" or point.relus > 400_000 else "resnet18"
        options = {"image_size": 64 if point.dataset == "tiny_imagenet" else 32, "dataset": point.dataset, "title": "x"}
        # The made-up sites are ResNet-18's whatever the backbone; up to 491,520 of them, near enough to SNL's 500K.
        changes = {"backbone/width": paper_width(backbone)}
        record = paper_like(names[point.method], point.relus, backbone, changes, **options)
        assert counterpart(record)[0].equals(point)
