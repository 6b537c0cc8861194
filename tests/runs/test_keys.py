"""Stored results are found after harmless changes of the code: new parameters, moved and renamed classes."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from quick_runs import SMALL, composed, quick_plan, quick_run

from relinearize import targets
from relinearize.conf_folder import conf_folder
from relinearize.runs.build import NETWORK_DEFAULTS
from relinearize.runs.keys import RESULTS_VERSION, defaults_of, settings_content
from relinearize.targets import build, present_path, target

DEFAULTS = Path(__file__).with_name("key_defaults.json")
MINE = """
from relinearize.methods.distill import Distill

class Mine(Distill):
    def __init__(self, network, teacher, {parameter} **settings):
        super().__init__(network, teacher, **settings)
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Writes the files of a package that stands in for ours, with fresh imports."""
    folder = tmp_path / "house"
    monkeypatch.setattr(targets, "PACKAGE", folder)
    monkeypatch.setattr(targets, "RENAMED", {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file rewritten within its second would be read from there

    def write(**files):
        for file in folder.glob("*.py"):
            file.unlink()
        folder.mkdir(exist_ok=True)
        for name, text in {"__init__": "", **files}.items():
            (folder / f"{name}.py").write_text(text)
        for name in [name for name in sys.modules if name.split(".")[0] == "house"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        present_path.cache_clear()

    yield write
    present_path.cache_clear()


def test_class_may_move_and_be_renamed(house):
    house(search="class Slopes:\n    def __init__(self, rate=0.1, steps=3): self.rate, self.steps = rate, steps\n")
    stored = {"_target_": "house.search.Slopes", "rate": 0.1, "steps": 4}
    key = settings_content(stored)
    assert key == {"_target_": "Slopes", "steps": 4} and build(stored).steps == 4
    house(methods="class Slopes:\n    def __init__(self, rate=0.1, steps=3): self.rate, self.steps = rate, steps\n")
    moved = {**stored, "_target_": "house.methods.Slopes"}
    assert settings_content(moved) == settings_content(stored) == key
    assert build(stored).steps == 4, "a config stored before is still built"
    house(methods="class Alphas:\n    def __init__(self, rate=0.1, steps=3): self.rate, self.steps = rate, steps\n")
    targets.RENAMED["Slopes"] = "Alphas"
    renamed = {**stored, "_target_": "house.methods.Alphas"}
    assert settings_content(renamed) == settings_content(stored) == key
    assert build({"search": stored})["search"].steps == 4
    house(methods="class Betas:\n    def __init__(self, rate=0.1, steps=3): pass\n")
    targets.RENAMED |= {"Slopes": "Betas", "Alphas": "Betas"}
    assert settings_content({**stored, "_target_": "house.methods.Betas"}) == key, "the first name of two"


def test_values_equal_to_defaults_are_in_no_key(house):
    house(
        base="class Base:\n    def __init__(self, *, epochs, decay=0.0, milestones=(), schedule='constant'): pass\n",
        search="from house.base import Base\n\nclass Search(Base):\n"
        "    def __init__(self, network, /, schedule='cosine', shares=(0.5, 1.0), switch=True, limit=None, **more):\n"
        "        super().__init__(**more)\n",
    )
    named = {"_target_": "house.search.Search", "epochs": 3}
    key = settings_content(named)
    assert key == {"_target_": "Search", "epochs": 3}
    for same in (
        {"decay": 0}, {"shares": [0.5, 1]}, {"milestones": []}, {"limit": None}, {"switch": True},
        {"schedule": "cosine"},
    ):  # fmt: skip
        assert settings_content({**named, **same}) == key, same
    for other in ({"decay": 0.1}, {"switch": 1}, {"limit": 0}, {"schedule": "constant"}, {"shares": [1.0, 0.5]}):
        assert settings_content({**named, **other}) != key, other


def test_class_of_a_user_stands_in_keys_by_its_path():
    node = {"_target_": "collections.Counter"}
    assert settings_content(node) == node


def test_mapping_with_defaults_of_its_own():
    validation = ("method.search.robust_validation.steps=10", "method.search.robust_validation.images=500")
    config = composed("unused", "method.search.attack.steps=7", *validation, method="rlnet")
    whole = settings_content(config.method.search)
    assert "robust_validation" not in whole and "part_weights" not in whole and "attack" not in whole
    config.method.search.attack = {"epsilon": 8.0, "steps": 8}
    assert settings_content(config.method.search) == {**whole, "attack": {"steps": 8}}


def test_new_parameter_with_a_default_finds_the_stored_result(tmp_path, monkeypatch, alone):
    """A user's fine-tuning runs; then its class gets a parameter, and the config names its value."""
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "a_method_of_mine.py"
    store = f"store={alone[SMALL][1].parents[1] / 'store'}"

    def asked(*overrides):
        sys.modules.pop(module.stem, None)
        importlib.invalidate_caches()
        overrides = (f"budget.fraction={SMALL}", f"method.finetune._target_={module.stem}.Mine", *overrides)
        return quick_run(tmp_path, *overrides, store, "method.finetune.epochs=1")[0]

    module.write_text(MINE.format(parameter=""))
    first = asked()
    assert first.stages["teacher"].reused and not first.stages["finetune"].reused
    module.write_text(MINE.format(parameter="warmth: float = 1.0,  # a new one\n"))
    assert asked("+method.finetune.warmth=1") == first, "the very run"
    assert asked("+method.finetune.warmth=1.0", "dataset.title=Renamed").stages["finetune"].reused
    assert not asked("+method.finetune.warmth=2").stages["finetune"].reused


def test_config_may_leave_out_what_is_the_default_anyway(tmp_path):
    shorter = ("~method.finetune.temperature", "~method.search.threshold", "~method.teacher.selection")
    assert quick_plan(tmp_path, *shorter).run.key == quick_plan(tmp_path).run.key
    assert quick_plan(tmp_path, "~dataset.short_batch").run.key == quick_plan(tmp_path).run.key


def test_a_short_last_batch_is_another_result(tmp_path):
    long, short = (quick_plan(tmp_path, f"dataset.short_batch={value}") for value in (False, True))
    assert long.teacher.key != short.teacher.key
    assert short.request.data.train_loader(32, 0).batches_per_epoch == 6  # of 180 images; the last has 20


def test_streamed_images_are_another_result_where_crops_show_more_of_them(tmp_path):
    whole = quick_plan(tmp_path)
    streamed = quick_plan(tmp_path)
    streamed.request.source.stream = True
    assert streamed.teacher.key != whole.teacher.key
    area = "+dataset.augment.random_resized_crop=0.5"
    whole, streamed = quick_plan(tmp_path, area), quick_plan(tmp_path, area)
    streamed.request.source.stream = True
    assert streamed.teacher.key == whole.teacher.key


def test_robust_validation_on_drawn_images_is_another_result(tmp_path):
    """It was on the first ones. Stages without it keep their results."""

    def entries(method, *words):
        plan = quick_plan(tmp_path, *words, method=method)
        return [plan._stage_content(stage).get("val/robust") for stage in ("teacher", "search", "finetune")]

    assert entries("rlnet") == ["of drawn images"] * 3 and entries("senet") == [None] * 3
    without = ("method.teacher.robust_validation.images=0", "method.teacher.select_by=clean")
    assert entries("rlnet", "method.teacher.robust_validation=5")[0], "which the stage refuses"
    assert entries("rlnet", *without) == [None, "of drawn images", "of drawn images"]


def test_a_student_without_skips_has_the_teacher_of_all_others(tmp_path):
    whole, without = (quick_plan(tmp_path, *words, method="senet") for words in ((), ("+backbone.student_skip=false",)))
    assert whole.teacher.key == without.teacher.key and whole.sensitivity == without.sensitivity
    assert whole.search.key != without.search.key and whole.finetune.key != without.finetune.key


def test_a_dataset_of_ones_own_need_not_name_what_is_usual(tmp_path):
    assert (
        quick_plan(tmp_path, "~dataset.subset").teacher.key == quick_plan(tmp_path, "dataset.subset=null").teacher.key
    )
    without = quick_plan(tmp_path, "~dataset.holdout")
    assert without.teacher.key == quick_plan(tmp_path, "dataset.holdout=0").teacher.key
    assert without.request.data.sizes["holdout"] == 0


def test_files_of_inner_settings_are_in_keys_by_content(tmp_path):
    keys = set()
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
        plan = quick_plan(tmp_path, f"+method.finetune.inner={{list: [{{file: {tmp_path / name}}}]}}")
        keys.add(plan.finetune.key)
    assert len(keys) == 2


def in_keys():
    """Name -> defaults of each class and function of ours that a config names in what keys are made of."""
    groups = ("method", "sensitivity", "allocation", "replacement", "backbone", "score")
    found = {"every network": NETWORK_DEFAULTS}
    for path in set().union(*(all_targets(conf_folder() / group) for group in groups)):
        function = target({"_target_": path})
        defaults = defaults_of(function)
        for name, inner in getattr(function, "setting_defaults", dict)().items():
            defaults |= {f"{name}.{key}": value for key, value in inner.items()}
        found[path.rpartition(".")[2]] = json.loads(json.dumps(defaults))
    return found


def test_defaults_are_those_that_stored_results_were_made_with():
    """Keys leave defaults out: with another default a stored result would be found for what it is not."""
    noted, now = json.loads(DEFAULTS.read_text()), in_keys()
    if noted["version"] != RESULTS_VERSION:  # a new version begins with the defaults of today
        DEFAULTS.write_text(json.dumps({"version": RESULTS_VERSION, "defaults": now}, indent=1, sort_keys=True) + "\n")
        pytest.fail(f"{DEFAULTS.name} was of version {noted['version']} and is now renewed: commit it")
    for name, defaults in noted["defaults"].items():
        assert name in now, f"{name} is gone: give its new name in RENAMED (targets.py), or raise RESULTS_VERSION"
        for parameter, value in defaults.items():
            assert now[name].get(parameter, value) == value, (
                f"{name}.{parameter} was {value!r} by default: raise RESULTS_VERSION (runs/keys.py)"
            )
    for name, defaults in now.items():
        missing = defaults.keys() - noted["defaults"].get(name, {}).keys()
        assert name in noted["defaults"] and not missing, f"note the defaults of {name} in {DEFAULTS.name}: {defaults}"


def test_names_that_configs_may_hold_are_unique_in_the_package():
    names = {path.rpartition(".")[2] for path in all_targets(conf_folder()) if path.startswith("relinearize.")}
    assert len(names) > 20
    for name in names:
        places = [
            file
            for file in targets.PACKAGE.rglob("*.py")
            if re.search(rf"^(class|def) {name}\b", file.read_text(), re.MULTILINE)
        ]
        assert len(places) == 1, (name, places)


def all_targets(folder):
    texts = (file.read_text() for file in folder.rglob("*.yaml"))
    return {path for text in texts for path in re.findall(r"_target_: ([\w.]+)", text)}


def test_stored_configs_name_classes_that_are_found():
    """Committed results outlive moves: their networks and methods can still be built."""
    paths = all_targets(Path(__file__).parents[2] / "results")
    assert len(paths) >= 10
    for path in paths:
        assert callable(target({"_target_": path})), path
