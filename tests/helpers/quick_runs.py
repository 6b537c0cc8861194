"""Whole runs in a second or two: the digits, a narrow ResNet-8, a steep search. For all tests of runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import composed_configs
from safetensors.torch import load_file

from relinearize.files import DIGEST, file_digest, write_json
from relinearize.records.run import RECORD_FILE
from relinearize.records.store import CONFIG, DESCRIPTION, MASK, WEIGHTS
from relinearize.relu.mask import Mask
from relinearize.runs.pipeline import run
from relinearize.runs.plan import Plan

QUICK = [
    "backbone.width=8", "dataset.subset=200", "trainer.progress=none", "trainer.accelerator=cpu",
    "method.teacher.epochs=3", "method.teacher.batch_size=60", "method.teacher.learning_rate=0.05",
    "method.finetune.epochs=2",
    "method.finetune.batch_size=60", "method.finetune.learning_rate=0.01",
]  # fmt: skip
SEARCH = [
    "method.search.epochs=8", "method.search.batch_size=60", "method.search.alpha_learning_rate=0.1",
    "method.search.lasso=3e-4", "method.search.checks_per_epoch=3",
]  # fmt: skip
SENET_SEARCH = ["method.search.epochs=3", "method.search.batch_size=60", "method.search.learning_rate=0.02"]
COMPUTED = ["sensitivity.epochs=2", "sensitivity.batch_size=60"]
QUICK_ATTACKS = [
    f"method.{stage}.{setting}" for stage in ("teacher", "search", "finetune")
    for setting in ("attack.steps=2", "robust_validation.steps=2", "robust_validation.images=20")
]  # fmt: skip
# What makes each method quick, beside QUICK; others are given no further settings.
METHODS = {
    "snl": SEARCH,
    "senet": ["method=senet", *SENET_SEARCH, *COMPUTED],
    "senet, any sensitivity": ["method=senet", *SENET_SEARCH],
    "senetpp": ["method=senetpp", *SENET_SEARCH, *COMPUTED],
    "any search": ["method=snl"],
    "rlnet": ["method=rlnet", *SENET_SEARCH, *COMPUTED, *QUICK_ATTACKS],
}
# Shares of the 2,304 ReLUs that this search reaches one after the other, within its first six epochs; UNREACHED never.
LARGE, MIDDLE, SMALL, UNREACHED = 0.6, 0.4, 0.27, 0.1
# Of a record: when, where and how it came about, not what.
VOLATILE = {"seconds", "reused", "created", "git_commit", CONFIG}


def composed(folder, *overrides, method="snl"):
    """The config of a quick run whose results and store lie in `folder`."""
    settings = METHODS.get(method, [f"method={method}"])
    return composed_configs.composed(*QUICK, *settings, f"output={folder}", *overrides)


def quick_plan(folder, *overrides, method="snl"):
    return Plan.of(composed(folder, *overrides, method=method))


def quick_run(folder, *overrides, method="snl"):
    """(record, folder of the run) of a run in this process."""
    return run(composed(folder, *overrides, method=method))


def copy_store(finished, folder):
    """Runs in `folder` find the stages of the run in the folder `finished`."""
    shutil.copytree(finished.parents[1] / "store", folder / "store")


def sealed_again(folder):
    """The digests in the record or artifact.json of `folder` fit again after a test's edits: what they hide is met."""
    for path in (folder / RECORD_FILE, folder / DESCRIPTION):
        if path.is_file():
            content = json.loads(path.read_text())
            content.pop(DIGEST, None)
            content["files"] = {file: file_digest(folder / file) for file in content["files"] or {}}
            write_json(path, content)


def command(*arguments):
    return [sys.executable, "-m", "relinearize", *arguments]


def quick_command(folder, *overrides):
    return command("run", *QUICK, *SEARCH, f"output={folder}", *overrides)


def shell(arguments, **settings):
    """A finished subprocess with its output as text; one thread, like everything here."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **settings.pop("env", {})}
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=400, **settings)


def tensors(folder):
    """The weights and the mask of a run's folder as one dict, for comparison bit for bit."""
    mask, _ = Mask.from_file(Path(folder) / MASK)
    return {**load_file(Path(folder) / WEIGHTS), **{f"mask {name}": kept for name, kept in mask.items()}}


def assert_same_tensors(first, second):
    first, second = tensors(first), tensors(second)
    assert list(first) == list(second)
    for name, value in first.items():
        assert value.dtype == second[name].dtype and value.equal(second[name]), name


def assert_same_in_pieces(finished, folder, run_in_pieces, every, *overrides, **settings):
    """Search and fine-tuning of `finished` (record, folder), made again in pieces (see conftest.py), end alike."""
    record, whole = finished
    copy_store(whole, folder)
    for made in ("search", "finetune"):
        shutil.rmtree(folder / "store" / made)
    again, again_folder = run_in_pieces(every, folder, *overrides, **settings)
    assert_same_tensors(again_folder, whole)
    assert lasting(again)["accuracy"] == lasting(record)["accuracy"]


def lasting(record):
    """The parts of a record that must not depend on how often the run was interrupted, nor on its folder."""

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(entry) for key, entry in value.items() if key not in VOLATILE}
        return [strip(entry) for entry in value] if isinstance(value, list) else value

    values = strip(record.model_dump(mode="json"))
    for key in ("output", "store"):
        values["config"].pop(key)
    return values


def trained_epochs(folder):
    """Epochs that the searches below `folder` walked, from their own history files."""
    return [len(file.read_text().splitlines()) - 1 for file in sorted(Path(folder).glob("store/search/*/history.csv"))]
