"""Killed runs go on to the same result; runs at the same time share their work; finished runs answer at once."""

import csv
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from pytorch_lightning import Trainer
from quick_runs import (
    LARGE,
    SMALL,
    assert_same_tensors,
    composed,
    copy_store,
    lasting,
    quick_plan,
    quick_run,
)

from relinearize import files
from relinearize.data.digits import Digits
from relinearize.records.run import Record, find_records
from relinearize.records.store import KEY_LENGTH, Artifact
from relinearize.runs import stages as making

OFTEN = "trainer.checkpoint_seconds=0"
FORK = multiprocessing.get_context("fork")  # spares a child the import of torch; a kill is as real


def run_and_die_at(folder, writes, overrides, method="snl"):
    """A run in a child that SIGKILLs itself in its `writes`-th fsync: in the middle of writing some file."""
    real = os.fsync
    left = [writes]

    def fatal(descriptor):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fatal
    quick_run(folder, *overrides, method=method)


def child(target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    process.join(300)
    return process.exitcode


def assert_equals_undisturbed(folder, alone):
    for (path, record), (other, expected) in zip(
        find_records([folder / "runs"]), find_records([alone[1]]), strict=True
    ):
        assert_same_tensors(path.parent, other.parent)
        ours, theirs = lasting(record), lasting(expected)
        for values in (ours, theirs):
            values["config"].pop("trainer")
        assert ours == theirs
    leftovers = [file.name for file in folder.rglob("*") if file.name.endswith(".work") or ".tmp" in file.name]
    # A search's half-written checkpoint stays until the search goes on: its snapshots need no lock any more.
    leftovers = [name for name in leftovers if not name.startswith(".last.ckpt.")]
    assert not leftovers, "a finished run leaves no unfinished files"


def test_run_killed_while_writing_goes_on_to_the_same_result(tmp_path, alone):
    """One kill in each stage, each while a file is being written."""
    overrides = (OFTEN, f"budget.fraction={SMALL}")
    for writes in (3, 12, 22):
        assert child(run_and_die_at, tmp_path, writes, overrides) == -signal.SIGKILL
        assert not list(tmp_path.glob("runs/*/record.json"))
    assert child(run_and_die_at, tmp_path, 10_000, overrides) == 0
    assert_equals_undisturbed(tmp_path, alone[SMALL])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["senet", "rlnet"])
def test_killed_in_each_of_four_stages_it_goes_on_to_the_same_result(tmp_path, method, request):
    """In teacher, sensitivity, search and fine-tuning; RLNet's two routes are compared both."""
    overrides, whole = (OFTEN, "budget.fraction=0.2"), request.getfixturevalue(method)
    for writes in (5, 9, 13, 13):
        assert child(run_and_die_at, tmp_path, writes, overrides, method) == -signal.SIGKILL
    assert child(run_and_die_at, tmp_path, 10_000, overrides, method) == 0
    assert_equals_undisturbed(tmp_path, whole)
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith((".work", ".ckpt")) or ".tmp" in file.name]


@pytest.mark.parametrize("method", ["snl", "senet"])
def test_checkpoints_that_a_kill_left_behind_results_go(tmp_path, alone, method, request):
    """Between the publishing of a result and the end of its checkpoint. SNL's trajectory is needed further on."""
    share, (_, whole) = (SMALL, alone[SMALL]) if method == "snl" else (0.2, request.getfixturevalue(method))
    copy_store(whole, tmp_path)
    plan = quick_plan(tmp_path, f"budget.fraction={share}", method=method)
    left = [plan.teacher.path / "last.ckpt", plan.finetune.path / "last.ckpt"]
    if method == "snl":
        left.append(plan.search.path / f"again-{plan.request.budget}.ckpt")
    else:
        left += [plan.search.path / "last.ckpt", plan.sensitivity.path / "last.ckpt"]
    for path in left:
        assert path.parent.is_dir()
        path.touch()
    quick_run(tmp_path, f"budget.fraction={share}", method=method)
    assert not [path for path in left if path.exists()]
    assert (plan.search.path / "last.ckpt").exists() == (method == "snl")


@pytest.mark.slow
def test_run_killed_at_every_write_goes_on_to_the_same_result(tmp_path, alone):
    """A child lives for two to twelve writes: enough, at its longest, to publish a stage, which needs nine in a row."""
    overrides, kills, progress = (OFTEN, f"budget.fraction={SMALL}"), 0, 2
    while child(run_and_die_at, tmp_path, progress, overrides) != 0:
        kills += 1
        progress = 2 + kills % 11
        assert kills < 100
    assert kills > 5
    assert_equals_undisturbed(tmp_path, alone[SMALL])


@pytest.mark.slow
def test_run_killed_at_random_moments_goes_on_to_the_same_result(tmp_path, alone):
    """At any moment, within steps and writes; lives grow longer, so that slow machines come to an end, too."""
    chance = random.Random(0)
    for life in range(100):
        process = FORK.Process(target=quick_run, args=(tmp_path, OFTEN, f"budget.fraction={SMALL}"))
        process.start()
        process.join(chance.uniform(0.1, 0.3 + life / 8))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
    assert process.exitcode == 0 and life > 2
    assert_equals_undisturbed(tmp_path, alone[SMALL])


def run_with_output(folder, log, *overrides):
    with open(log, "w") as sys.stdout:
        sys.stderr = sys.stdout
        quick_run(folder, *overrides, "trainer.progress=lines")


def test_two_processes_on_one_store_share_the_work_and_both_finish(tmp_path, alone):
    jobs, logs = [], [tmp_path / f"{share}.log" for share in (LARGE, SMALL)]
    grid = f"budget.grid=[{LARGE},{SMALL}]"
    for share, log in zip((LARGE, SMALL), logs, strict=True):
        jobs.append(FORK.Process(target=run_with_output, args=(tmp_path, log, f"budget.fraction={share}", grid)))
    waiting = "waiting for another process that works on resnet8-digits-s0"
    # Held until both are there: on a busy machine one could be done with the teacher before the other begins.
    with quick_plan(tmp_path, f"budget.fraction={LARGE}", grid).teacher.lock():
        for job in jobs:
            job.start()
        wait_until(lambda: all(log.exists() and waiting in log.read_text() for log in logs), "both should wait")
    for job in jobs:
        job.join(300)
    text = "".join(log.read_text() for log in logs)
    assert [job.exitcode for job in jobs] == [0, 0], text
    lines = text.splitlines()
    longest = sum("seconds" in row for row in alone[SMALL][0].stages["search"].history)
    trained = [sum(line.startswith(stage) for line in lines) for stage in ("teacher", "search", "finetune")]
    assert trained == [3, longest, 4]
    for path, record in find_records([tmp_path / "runs"]):
        share = LARGE if record.budget.met > 1000 else SMALL
        assert_same_tensors(path.parent, alone[share][1])


def run_and_hang_at(folder, writes, hanging, *overrides):
    """A run that stands still in its `writes`-th fsync, inside of some stage, and says so by the file `hanging`."""
    real = os.fsync
    left = [writes]

    def halting(descriptor):
        left[0] -= 1
        if left[0] == 0:
            hanging.touch()
            time.sleep(600)
        real(descriptor)

    os.fsync = halting
    quick_run(folder, *overrides)


def wait_until(condition, what):
    limit = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "writes"), [("teacher", 3), ("search", 15)])
def test_run_that_waits_for_a_shared_stage_takes_it_over_when_its_holder_is_killed(tmp_path, alone, stage, writes):
    overrides = (OFTEN, f"budget.grid=[{LARGE},{SMALL}]")
    hanging, log = tmp_path / "hanging", tmp_path / "log"
    first = FORK.Process(
        target=run_and_hang_at, args=(tmp_path, writes, hanging, f"budget.fraction={LARGE}", *overrides)
    )
    second = FORK.Process(target=run_with_output, args=(tmp_path, log, f"budget.fraction={SMALL}", *overrides))
    first.start()
    try:
        wait_until(hanging.exists, "the first should have come to its stage")
        assert stage in os.listdir(tmp_path / "store") and "finetune" not in os.listdir(tmp_path / "store")
        second.start()
        waiting = "waiting for another process that works on "
        wait_until(lambda: log.exists() and waiting in log.read_text(), "the second should wait for the first")
        time.sleep(1)
        assert "going on" not in log.read_text() and second.is_alive(), "it waits for as long as the holder lives"
    finally:
        first.kill()
    second.join(300)
    text = log.read_text()
    assert second.exitcode == 0, text
    assert f"{stage}: going on from" in text, "not from the start"
    ((path, record),) = find_records([tmp_path / "runs"])
    assert_same_tensors(path.parent, alone[SMALL][1])
    assert record.accuracy == alone[SMALL][0].accuracy


def test_finished_run_asked_again_trains_and_loads_nothing(tmp_path, alone, monkeypatch):
    record, folder = alone[SMALL]
    before = {path: path.stat().st_mtime_ns for path in folder.parents[1].rglob("*") if path.is_file()}

    def refuse(*arguments, **settings):
        raise AssertionError("a finished run must neither train nor load images")

    monkeypatch.setattr(making, "fit", refuse)
    monkeypatch.setattr("relinearize.data.digits.Digits.load", refuse)
    started = time.process_time()
    again, place = quick_run(folder.parents[1], f"budget.fraction={SMALL}")
    assert time.process_time() - started < 3
    assert (again, place) == (record, folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.fixture(scope="module")
def plain_keys():
    """The keys of a run without overrides, by stage; folders are in none."""
    return keys_of(quick_plan("anywhere"))


def keys_of(plan):
    return {stage: getattr(plan, stage).key for stage in ("teacher", "search", "finetune", "run")}


@pytest.mark.parametrize(
    "override",
    [
        "logger=none", "dataset.workers=7", "dataset.resident=false", "trainer.checkpoint_seconds=1",
        "trainer.progress=lines", "output=/elsewhere", "sweep=other", "budget.grid=[0.3]", "logger=wandb",
        "trainer.threads=1", "dataset.root=/moved", "trainer.compile=true", "trainer.channels_last=false",
        "trainer.convolutions=torch",
    ],
)  # fmt: skip
def test_what_cannot_change_a_result_is_no_part_of_its_key(tmp_path, plain_keys, override):
    assert keys_of(quick_plan(tmp_path, override)) == plain_keys


@pytest.mark.parametrize(
    ("override", "first_changed"),
    [
        ("seed=1", "teacher"), ("dataset.subset=201", "teacher"), ("dataset.holdout=0.2", "teacher"),
        ("backbone.width=9", "teacher"), ("method.teacher.learning_rate=0.2", "teacher"),
        ("trainer.precision=bf16", "teacher"), ("dataset.augment.crop_padding=2", "teacher"),
        ("dataset.augment.flip=true", "teacher"), ("dataset.mean=[0.1]", "teacher"), ("dataset.std=[0.9]", "teacher"),
        ("method.search.lasso=1e-4", "search"), ("method.search.paper_parity=true", "search"),
        ("method.finetune.epochs=3", "finetune"), ("method.finetune.temperature=2", "finetune"),
        ("budget.fraction=0.3", "finetune"), ("dataset.title=Other", "run"),
    ],
)  # fmt: skip
def test_what_changes_a_result_changes_the_keys_from_its_stage_on(tmp_path, plain_keys, override, first_changed):
    other, stages = keys_of(quick_plan(tmp_path, override)), list(plain_keys)
    changed = [stage for stage in stages if other[stage] != plain_keys[stage]]
    assert changed == stages[stages.index(first_changed) :]


def test_images_and_a_given_teacher_are_in_keys_by_content(tmp_path, plain_keys, monkeypatch):
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
    one, same, two = (keys_of(quick_plan(tmp_path, f"teacher.weights={tmp_path / name}")) for name in "abc")
    assert one == same and not set(one.items()) & (set(two.items()) | set(plain_keys.items()))
    monkeypatch.setattr(Digits, "fingerprint", lambda source: "of other images")
    assert not set(keys_of(quick_plan(tmp_path)).items()) & set(plain_keys.items())


def test_key_does_not_depend_on_how_a_number_is_written(tmp_path):
    first = quick_plan(tmp_path, "method.teacher.learning_rate=0.1")
    assert first.run.key == quick_plan(tmp_path, "method.teacher.learning_rate=1e-1").run.key


def test_history_file_has_each_epoch_once_and_equals_the_record(alone):
    record, folder = alone[SMALL]
    for stage in ("teacher", "search", "finetune"):
        key = record.stages[stage].key[:KEY_LENGTH]  # other tests' runs may share the store
        with open(next(folder.parents[1].glob(f"store/{stage}/*-{key}/history.csv"))) as file:
            rows = list(csv.DictReader(file))
        history = [row for row in record.stages[stage].history if "seconds" in row]
        assert [int(row["epoch"]) for row in rows] == list(range(len(history)))
        for row, kept in zip(rows, history, strict=True):
            assert {key: float(value) for key, value in row.items()} == pytest.approx(kept)


def test_long_epochs_are_saved_within_them(tmp_path, alone, monkeypatch):
    saved, save = [], Trainer.save_checkpoint
    monkeypatch.setattr(Trainer, "save_checkpoint", lambda *arguments: saved.append(1) or save(*arguments))
    record, folder = quick_run(tmp_path, f"budget.fraction={SMALL}", "trainer.checkpoint_seconds=1e-9")
    assert len(saved) > 2 * sum(stage.epochs for stage in record.stages.values())
    assert_same_tensors(folder, alone[SMALL][1])


def test_a_stage_is_looked_for_anew_once_its_lock_is_held(tmp_path, monkeypatch):
    """A client of NFS answers from what it remembers of a folder until something of its own changes there."""
    artifact, changed = Artifact(tmp_path / "teacher" / "name", "key"), []
    real = files.tempfile.NamedTemporaryFile
    monkeypatch.setattr(
        files.tempfile, "NamedTemporaryFile", lambda *, dir, **_: changed.append(dir) or real(dir=dir, prefix=".")
    )
    artifact.path.mkdir(parents=True)
    with artifact.lock():
        assert changed == [artifact.path.parent, artifact.path] and not list(artifact.path.iterdir())


def test_record_can_be_read_back_and_names_its_config(alone):
    record, folder = alone[SMALL]
    assert Record.read(folder / "record.json") == record
    config = composed(Path("anywhere"), f"budget.fraction={SMALL}")
    assert record.config["method"]["search"]["lasso"] == config.method.search.lasso
    assert record.accuracy.selection == "best" and record.accuracy.n_test == 360
