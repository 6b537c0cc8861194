"""Robust records: what is accepted, and what is refused with which line; tests/runs/test_records.py has the rest."""

import copy
import json

import pytest
from pydantic import ValidationError

from relinearize.errors import UserError
from relinearize.files import read_json
from relinearize.records.robustness import RobustRecord

VALUES = {
    "schema_version": 1,
    "key": "ab12",
    "name": "rlnet-resnet18-cifar10-35k-s0-adversarial",
    "method": "rlnet",
    "route": "adversarial",
    "run": "cd34",
    "dataset": "cifar10",
    "title": "CIFAR-10 (JPEG)",
    "backbone": "resnet18",
    "width": 16,
    "convention": "senet",
    "relus": 34816,
    "total": 139264,
    "seed": 0,
    "clean": {"accuracy": 61.2, "n": 10000},
    "attacks": [
        {
            "name": "pgd20",
            "label": "PGD-20 (CE)",
            "epsilon": 8.0,
            "step": 2.0,
            "steps": 20,
            "restarts": 1,
            "losses": ["ce"],
            "version": None,
            "n": 1000,
            "seed": 0,
            "accuracy": 21.3,
            "seconds": 33.0,
        }
    ],
    "corruptions": {
        "source": "generated",
        "constants": "cifar",
        "seed": 0,
        "n": 10000,
        "left_out": ["frost"],
        "accuracy": {"gaussian_noise": [60.0, 58.0, 56.0, 54.0, 52.0], "fog": [50.0, 48.0, 46.0, 44.0, 42.0]},
        "extra": {"speckle_noise": [60.0, 58.0, 56.0, 54.0, 52.0]},
        "npa": 51.0,
        "mce": 49.0,
        "mce_anchor": "mean error",
    },
    "checks": [
        {"name": "epsilon sweep", "passed": True, "message": "0.0 % at 64/255", "numbers": {"1": 45.3, "64": 0.0}}
    ],
    "evaluation": {"attacks": ["pgd20"], "chunk": None},
    "created": "2025-01-02T03:04:05+00:00",
    "seconds": 12.5,
    "versions": {"torch": "2.11"},
    "hardware": {"accelerator": "cpu", "name": "cpu"},
    "git_commit": None,
}


def values_with(**changes):
    """VALUES with dotted keys (`clean__n=3`) replaced."""
    values = copy.deepcopy(VALUES)
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = values
        for part in parents:
            place = place[int(part) if part.isdigit() else part]
        place[last] = value
    return values


def written(folder, values):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "robustness.json"
    path.write_text(json.dumps(values))
    return path


def test_round_trip(tmp_path):
    record = RobustRecord.model_validate(VALUES)
    record.write(tmp_path / "deep" / "robustness.json")
    assert RobustRecord.read(tmp_path / "deep" / "robustness.json") == record
    assert read_json(tmp_path / "deep" / "robustness.json") == VALUES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["robustness.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean__accuracy": 100.5}, "clean.accuracy"),
        ({"clean__n": 0}, "clean.n"),
        ({"attacks__0__accuracy": -1.0}, "attacks.0.accuracy"),
        ({"attacks__0__n": "1000"}, "attacks.0.n"),
        ({"attacks__0__losses": "ce"}, "attacks.0.losses"),
        ({"attacks": VALUES["attacks"] * 2}, "a name occurs twice in pgd20, pgd20"),
        ({"corruptions__accuracy": {}}, "corruptions.accuracy"),
        ({"corruptions__accuracy__fog": [50.0] * 4}, "corruptions.accuracy.fog"),
        ({"corruptions__npa": 51.1}, "npa is 51.1, but the mean over accuracy is 51.0"),
        ({"corruptions__left_out": ["fog"]}, "fog is measured and left_out"),
        ({"relus": 139265}, "relus is 139265, more than its total 139264"),
        ({"surprise": 1}, "surprise"),
        ({"created": "yesterday"}, "created"),
        ({"schema_version": 2}, "schema_version: 2 is newer than this program's 1; update relinearize"),
        ({"schema_version": "1"}, "schema_version: '1'"),
    ],
)
def test_refused_with_path_and_field(tmp_path, changes, words):
    path = written(tmp_path, values_with(**changes))
    with pytest.raises(UserError) as refusal:
        RobustRecord.read(path)
    assert str(path) in str(refusal.value) and words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_optional_parts_may_be_missing_but_not_left_out():
    record = RobustRecord.model_validate(values_with(corruptions=None, route=None, attacks=[], checks=[]))
    assert record.corruptions is None and record.route is None
    values = values_with()
    del values["corruptions"]
    with pytest.raises(ValidationError, match="corruptions"):
        RobustRecord.model_validate(values)


def test_folders_without_robust_records_are_fine_and_missing_ones_are_not(tmp_path):
    assert RobustRecord.find([tmp_path]) == []
    with pytest.raises(UserError, match="no such folder"):
        RobustRecord.find([tmp_path / "absent"])
