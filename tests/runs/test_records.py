"""Records: what is accepted, what is refused with which line, and that a write is complete or absent."""

import copy
import json
import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from relinearize.errors import UserError
from relinearize.files import read_json
from relinearize.machine import git_commit
from relinearize.records.run import Record, find_records

VALUES = {
    "schema_version": 3,
    "key": "ab12",
    "name": "snl-resnet8-digits-30-s0",
    "created": "2025-01-02T03:04:05+00:00",
    "method": {"name": "snl", "teacher": "Classifier", "search": "SNLSearch", "finetune": "Distill"},
    "dataset": {
        "name": "digits",
        "title": "digits (8x8)",
        "image_size": 8,
        "channels": 1,
        "classes": 10,
        "train": 1200,
        "holdout": 140,
        "test": 457,
        "fingerprint": "ff00",
    },
    "backbone": {"name": "resnet8", "width": 16, "convention": "senet", "student": None},
    "seed": 0,
    "replacement": "identity",
    "unit": "positions",
    "zero_weights": 0.5,
    "budget": {"asked": 30, "met": 30, "total": 128, "reached": True},
    "sites": [
        {"name": "relu1", "shape": [1, 8, 8], "total": 64, "kept": 20, "sensitivity": 0.5},
        {"name": "relu2", "shape": [1, 8, 8], "total": 64, "kept": 10, "sensitivity": None},
    ],
    "accuracy": {
        "test": 91,
        "test_last": 90.5,
        "holdout": None,
        "teacher_test": None,
        "n_test": 457,
        "n_holdout": 0,
        "selection": "last",
        "selected_epoch": 1,
        "predictions": {"per_class": [91.5, None], "ece": 2.5, "nll": 0.3},
        "teacher_predictions": None,
    },
    "stages": {
        "finetune": {
            "key": "cd34",
            "seconds": 1.5,
            "epochs": 1,
            "reused": False,
            "history": [{"epoch": 0, "train/loss": 1.25, "val/accuracy": None}],
        }
    },
    "config": {"method": {"name": "snl"}, "list": [1, 2.5, None, "x"]},
    "versions": {"torch": "2.11"},
    "git_commit": None,
    "hardware": {"accelerator": "cpu", "name": "cpu", "threads": 2, "precision": "32", "convolutions": "torch"},
    "submodel": {"fraction": 0.5, "run": "ef56"},
    "route": "clean",
    "cost": {
        "relus": 30,
        "live_sites": 2,
        "gathered": 128,
        "affine": 0,
        "affine_sites": 0,
        "quadratic": 0,
        "quadratic_sites": 0,
        "quadratic_ciphertexts": 0,
        "linear": None,
        "predicted": {
            "delphi_compute": {"online": {"seconds": 0.02, "bytes": None, "messages": None}, "offline": None},
        },
    },
    "files": {"mask.safetensors": "ab" * 32},
}


def values_with(**changes: object) -> dict:
    """VALUES with dotted keys (`budget__met=3`) replaced."""
    values = copy.deepcopy(VALUES)
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = values
        for part in parents:
            place = place[int(part) if part.isdigit() else part]
        place[last] = value
    return values


def written(folder: Path, values: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "record.json"
    path.write_text(json.dumps(values))
    return path


def test_round_trip(tmp_path):
    record = Record.model_validate(VALUES)
    record.write(tmp_path / "deep" / "record.json")
    again = Record.read(tmp_path / "deep" / "record.json")
    assert again == record
    assert read_json(tmp_path / "deep" / "record.json") == VALUES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["record.json"]
    epoch = again.stages["finetune"].history[0]["epoch"]
    assert isinstance(epoch, int)


def test_a_narrower_student_has_fewer_relus_than_the_teacher(tmp_path):
    student = {"backbone__student": {"width": 8, "stride": 1}}
    assert Record.model_validate(values_with(budget__total=256, **student)).budget.total == 256
    with pytest.raises(UserError, match="the sites hold 128"):
        Record.read(written(tmp_path, values_with(budget__total=127, **student)))


def test_records_from_before_there_were_units_are_read():
    values = {key: value for key, value in VALUES.items() if key not in ("unit", "zero_weights")}
    record = Record.model_validate(values | {"backbone": {"name": "resnet8", "width": 16, "convention": "senet"}})
    assert (record.unit, record.zero_weights, record.backbone.student) == (None, None, None)


def test_not_a_number_becomes_null():
    values = values_with(stages__finetune__history=[{"epoch": 0, "train/loss": float("nan")}])
    assert Record.model_validate(values).stages["finetune"].history[0]["train/loss"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget__met": 31}, "budget.met is 31, but the sites keep 30"),
        ({"budget__total": 127}, "budget.total is 127, but the sites hold 128"),
        ({"budget__total": 129}, "budget.total is 129, but the sites hold 128"),
        ({"unit": "blocks"}, "unit"),
        ({"sites__0__kept": 65}, "sites.0: site relu1: kept 65 is more than its total 64"),
        ({"accuracy__test": 100.5}, "accuracy.test"),
        ({"accuracy__holdout": -1.0}, "accuracy.holdout"),
        ({"seed": "0"}, "seed"),
        ({"budget__reached": 1}, "budget.reached"),
        ({"surprise": 1}, "surprise"),
        ({"stages__warmup": VALUES["stages"]["finetune"]}, "stages.warmup"),
        ({"created": "yesterday"}, "created"),
        ({"schema_version": 2}, "schema_version: 2 is older than this program's 3; run it again"),
        ({"schema_version": 4}, "schema_version: 4 is newer"),
        ({"cost__live_sites": 1}, "cost counts 30 ReLUs at 1 sites, but 2 sites keep 30"),
        ({"schema_version": "1"}, "schema_version: '1'"),
    ],
)
def test_refused_with_path_and_field(tmp_path, changes, words):
    path = written(tmp_path, values_with(**changes))
    with pytest.raises(UserError) as refusal:
        Record.read(path)
    assert str(path) in str(refusal.value)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_field_is_named(tmp_path):
    values = values_with()
    del values["accuracy"]["test"]
    with pytest.raises(UserError, match=r"accuracy\.test: Field required"):
        Record.read(written(tmp_path, values))


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufeff{}"])
def test_what_is_no_record(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"record\.json"):
        Record.read(path)
    with pytest.raises(UserError, match="cannot be read"):
        Record.read(tmp_path / "absent.json")


def test_a_run_is_chosen_by_held_out_images_where_there_are_some():
    accuracy = Record.model_validate(VALUES).accuracy
    assert accuracy.objective == accuracy.test == 91
    assert accuracy.model_copy(update={"holdout": 12.5}).objective == 12.5


def test_records_are_frozen():
    with pytest.raises(ValidationError):
        Record.model_validate(VALUES).name = "other"


def test_find_is_recursive_sorted_and_without_duplicates(tmp_path):
    written(tmp_path / "b" / "deep", values_with(key="k2"))
    written(tmp_path / "a", values_with(key="k1"))
    written(tmp_path / "c", values_with(key="k1"))
    found = find_records([tmp_path, str(tmp_path / "b")])
    assert [(path.parent.name, record.key) for path, record in found] == [("a", "k1"), ("deep", "k2")]
    assert find_records([tmp_path / "a" / "record.json"])[0][1].key == "k1"


def test_find_follows_links_and_each_folder_once(tmp_path):
    left = tmp_path / "runs" / "mine"
    written(left, VALUES)
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "linked").symlink_to(left)
    assert [path for path, _ in find_records([chosen])] == [chosen / "linked" / "record.json"]
    (left / "back").symlink_to(tmp_path / "runs")
    assert len(find_records([tmp_path / "runs"])) == 1


def test_find_skips_what_is_unfinished_and_says_which_of_two_contents_it_takes(tmp_path, caplog):
    first = written(tmp_path / "a", VALUES)
    written(tmp_path / "a" / "mine.work", values_with(key="unfinished"))
    other = written(tmp_path / "b", values_with(seed=VALUES["seed"] + 1))
    with caplog.at_level(logging.WARNING):
        assert [path for path, _ in find_records([tmp_path])] == [first]
    (line,) = caplog.messages
    assert line == f"skipped: {other}: the same run as {first}, with other content"


def test_find_skips_a_broken_record_and_names_it(tmp_path, caplog):
    written(tmp_path / "good", VALUES)
    broken = written(tmp_path / "broken", {"schema_version": 3})
    with caplog.at_level(logging.WARNING):
        assert len(find_records([tmp_path])) == 1
    assert [str(broken) in line for line in caplog.messages] == [True]


def test_find_refuses_folders_without_records(tmp_path):
    with pytest.raises(UserError, match=r"holds no record\.json"):
        find_records([tmp_path])
    with pytest.raises(UserError, match="no such folder"):
        find_records([tmp_path / "absent"])
    written(tmp_path, {"schema_version": 3})
    with pytest.raises(UserError, match="no valid record"):
        find_records([tmp_path])


def test_a_machine_without_git_has_no_commit_and_no_error(monkeypatch):
    assert git_commit() is None or len(git_commit()) == 40
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None
