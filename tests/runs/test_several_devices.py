"""Runs with trainer.devices=2: two processes on the CPU, as the program starts them."""

import contextlib
import gc
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import LIMIT, gone
from pytorch_lightning import Trainer
from quick_runs import (
    LARGE,
    SMALL,
    assert_same_tensors,
    lasting,
    quick_plan,
    quick_run,
    tensors,
)
from torch import nn

from relinearize import processes
from relinearize.data.loaders import TrainLoader
from relinearize.errors import UserError
from relinearize.methods.stage.stage import Diverged
from relinearize.processes import average_batch_norms, process_rank
from relinearize.runs import stages as making
from relinearize.runs.pipeline import check_stages
from relinearize.runs.stages import ready, train_as_peer
from relinearize.training.fit import fit
from relinearize.training.settings import TrainerSettings

# The peers' own, and what reading the digits imports: once, in the server, instead of in each peer.
multiprocessing.set_forkserver_preload([
    "relinearize.runs.pipeline", "relinearize.training.lightning", "sklearn.datasets", "pytest",
])  # fmt: skip

TWO = "trainer.devices=2"
PLAIN = [f"backbone._target_={__name__}.Plain", "backbone.name=plain", "~backbone.initialisation"]
IMAGES = 180  # of the quick runs' training


class Plain(nn.Sequential):
    """Without batch norm two processes compute what one does, but for the order of additions."""

    def __init__(self, classes, image_size, channels, width, convention):
        first, second = nn.Conv2d(channels, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(8 * image_size**2, classes))


@pytest.fixture
def forks_free_what_is_left():
    """A process that is forked after a test, a reading worker, say, can free all that it inherits unused.

    It could not free a process group: that waits for threads which the child does not have.
    """
    gc.disable()
    try:
        yield
        child = multiprocessing.get_context("fork").Process(target=gc.collect)
        child.start()
        child.join(LIMIT)
        child.kill()
        assert child.exitcode == 0
    finally:
        gc.enable()


@pytest.fixture
def notes(monkeypatch, tmp_path):
    """stage, rank -> what that process had at its end: weights, rows of its images in order, its number."""
    take_notes(monkeypatch, tmp_path)
    monkeypatch.setattr(making, "train_as_peer", partial(noting_peer, tmp_path))
    return lambda stage, rank: torch.load(tmp_path / f"{stage}-{rank}.pt")


def noting_peer(folder, *arguments):
    take_notes(pytest.MonkeyPatch(), folder)
    train_as_peer(*arguments)


def take_notes(patch, folder):
    rows = []

    plans = TrainLoader._plans

    def noting_plans(loader, *position):
        for plan in plans(loader, *position):
            rows.append(plan.rows)
            yield plan

    def noting_fit(stage, *arguments, **settings):
        rows.clear()  # of the stage before
        fit(stage, *arguments, **settings)
        content = {"weights": stage.weights(), "rows": torch.cat(rows), "process": os.getpid()}
        torch.save(content, folder / f"{stage.name}-{process_rank()}.pt")

    patch.setattr(TrainLoader, "_plans", noting_plans)
    patch.setattr(making, "fit", noting_fit)


def assert_trained_as_one(notes, *stages):
    """The processes ended each stage with the same weights, and saw every image once an epoch, each its own."""
    for stage in stages:
        first, second = notes(stage, 0), notes(stage, 1)
        assert first["process"] == os.getpid() != second["process"]
        assert list(first["weights"]) == list(second["weights"])
        for name, value in first["weights"].items():
            assert value.equal(second["weights"][name]), (stage, name)
        for ours, theirs in zip(first["rows"].split(IMAGES // 2), second["rows"].split(IMAGES // 2), strict=True):
            seen = torch.cat([ours, theirs]).unique()
            assert len(seen) == len(ours) + len(theirs)  # so all of them, but in an epoch in which a search stops


def assert_same_run(first, second, tolerance):
    """Equal masks, and weights and metrics that differ by rounding."""
    (record, folder), (other, other_folder) = first, second
    ours, theirs = tensors(folder), tensors(other_folder)
    for name, value in ours.items():
        if value.dtype == torch.bool:
            assert value.equal(theirs[name]), name
        else:
            torch.testing.assert_close(theirs[name], value, rtol=tolerance, atol=tolerance)
    assert record.budget == other.budget
    for stage in record.stages:
        for row, other_row in zip(record.stages[stage].history, other.stages[stage].history, strict=True):
            for key in row.keys() - {"seconds"}:
                assert other_row[key] == pytest.approx(row[key], rel=tolerance, abs=tolerance / 100), (stage, key)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(notes, tmp_path, forks_free_what_is_left):
    """With torch's convolutions: Winograd's round more, which the training would not keep below this tolerance."""
    settings = [*PLAIN, f"budget.fraction={SMALL}", "method.search.epochs=4", "trainer.convolutions=torch"]
    one = quick_run(tmp_path / "1", *settings)
    two = quick_run(tmp_path / "2", *settings, TWO)
    assert_same_run(one, two, tolerance=1e-4)
    assert two[0].budget.met == two[0].budget.asked == 415
    assert_trained_as_one(notes, "teacher", "search", "finetune")
    assert one[0].key != two[0].key, "devices are part of a result's identity"


@pytest.mark.slow
def test_an_uneven_batch_counts_each_of_its_images_once(tmp_path):
    """An epoch of 60, 60 and 15 images: the two processes have 8 and 7 of the last batch."""
    settings = [*PLAIN, f"budget.fraction={SMALL}", "trainer.convolutions=torch", "dataset.subset=150"]
    settings += ["method.teacher.epochs=2", "method.finetune.epochs=1"]
    one, two = (
        quick_run(tmp_path / str(count), *settings, f"trainer.devices={count}", method="random") for count in (1, 2)
    )
    assert_same_run(one, two, tolerance=1e-4)


def test_a_search_that_trains_nothing_sees_all_images(tmp_path):
    """It runs in one process, so nothing is summed over others."""
    plan = quick_plan(tmp_path, TWO, f"budget.fraction={SMALL}", method="one_shot")
    stage = check_stages(plan)["method.search"]
    assert stage.epochs == 0
    ready(plan, stage)
    assert sum(len(labels) for _, labels in stage.further_batches(0, None)) == IMAGES


@pytest.mark.slow
def test_training_that_diverges_in_two_processes_says_so_once(tmp_path, forks_free_what_is_left):
    with pytest.raises(Diverged, match=r"method\.teacher\.learning_rate"):
        quick_run(tmp_path, TWO, "method.teacher.learning_rate=1e30")


class PartlyUsed(Plain):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        return nn.Sequential(*list(self)[:-1])(x)


@pytest.mark.slow
def test_weights_that_no_loss_depends_on_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^stage teacher: weights of the network take no part .* trainer\.devices=1$"):
        quick_run(tmp_path, TWO, *PLAIN[1:], f"backbone._target_={__name__}.PartlyUsed")


def test_more_devices_than_cards_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"trainer\.devices=3 .* give at most 2"):
        TrainerSettings.resolve(accelerator="cuda", devices=3)


def dying_peer(*arguments):
    def fatal_fit(stage, *rest):
        stage.segment_end = lambda last: os.kill(os.getpid(), signal.SIGKILL)
        fit(stage, *rest)

    pytest.MonkeyPatch().setattr(making, "fit", fatal_fit)
    train_as_peer(*arguments)


@pytest.mark.slow
def test_killed_process_ends_the_training_with_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "train_as_peer", dying_peer)
    with pytest.raises(RuntimeError, match=r"process 2 of 2 .* \(exit status -9\)"):
        quick_run(tmp_path, TWO)
    assert not torch.distributed.is_initialized()


def refusing_peer(*arguments):
    raise UserError("the disk of this process is full")


@pytest.mark.slow
def test_what_a_process_says_to_the_user_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "train_as_peer", refusing_peer)
    with pytest.raises(UserError, match="the disk of this process is full"):
        quick_run(tmp_path, TWO)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["senetpp", "rlnet"])
def test_every_stage_of_a_method_in_two_processes(notes, tmp_path, method):
    """With batch norms: their statistics, too, are the same in both in the end. SNL's and SENet's stages: below."""
    shorter = ["method.teacher.epochs=1", "method.search.epochs=1", "method.finetune.epochs=1", "sensitivity.epochs=1"]
    record, _ = quick_run(tmp_path, TWO, f"budget.fraction={SMALL}", *shorter, method=method)
    assert record.budget.met == record.budget.asked
    assert_trained_as_one(notes, *(name for name in record.stages if name != "sensitivity"))
    first, second = notes("sensitivity", 0)["weights"], notes("sensitivity", 1)["weights"]  # its set-up sees a batch
    assert all(value.equal(second[name]) for name, value in first.items())


@pytest.mark.slow
def test_senet_in_two_processes_finds_the_mask_of_one(tmp_path):
    settings = [*PLAIN, f"budget.fraction={SMALL}", "+method.search.segments=2", "method.search.epochs=1"]
    settings += ["method.teacher.epochs=1", "method.finetune.epochs=1"]
    settings += ["+trainer.lightning.gradient_clip_val=1.0"]  # which the peers must be told as well
    one = quick_run(tmp_path / "1", *settings, method="senet")
    assert_same_run(one, quick_run(tmp_path / "2", *settings, TWO, method="senet"), tolerance=1e-3)


@pytest.mark.slow
def test_streaming_workers_give_two_processes_the_same_batches(notes, tmp_path):
    """All stages of SNL, with batch norms."""
    shorter = ["method.teacher.epochs=1", "method.search.epochs=2", "method.finetune.epochs=1"]
    resident, streaming = (
        quick_run(tmp_path / kind, TWO, f"dataset.resident={kind}", "dataset.workers=1", *shorter)
        for kind in ("true", "false")
    )
    assert_same_tensors(resident[1], streaming[1])
    assert_trained_as_one(notes, "teacher", "search", "finetune")


def test_running_statistics_become_their_mean_over_the_processes(monkeypatch):
    """Two of them, of which the other's are 3 larger."""
    norm = nn.BatchNorm2d(2)
    monkeypatch.setattr(processes, "process_count", lambda: 2)
    monkeypatch.setattr(processes.distributed, "all_reduce", lambda tensor: tensor.mul_(2).add_(3))
    average_batch_norms(nn.Sequential(norm))
    assert norm.running_mean.tolist() == [1.5, 1.5] and norm.running_var.tolist() == [2.5, 2.5]


# ---- interrupts ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_accuracy_of_two_processes_is_that_of_one_within_noise(tmp_path):
    """With batch norms, whose statistics each process takes of its own images; on all digits, under random masks."""
    longer = ["dataset.subset=null", "method.teacher.epochs=6", "method.teacher.learning_rate=0.2"]
    longer += [f"budget.fraction={LARGE}", "method.finetune.learning_rate=0.05"]
    found = []
    for devices in (1, 2):
        settings = [*longer, f"trainer.devices={devices}"]
        record, _ = quick_run(tmp_path / str(devices), *settings, method="random")
        found.append([getattr(record.accuracy, measure) for measure in ("teacher_test", "holdout", "test")])
    print("teacher, hold-out, test: of one process", found[0], "of two", found[1])
    assert min(found[0] + found[1]) > 90
    assert max(abs(one - two) for one, two in zip(*found, strict=True)) < 5


class Interrupted(BaseException):
    pass


@pytest.mark.slow
def test_interrupted_in_two_processes_goes_on_to_the_same_result(tmp_path, monkeypatch):
    """SENet, once in each stage, at a segment's end; its search within an epoch, with sums of all processes."""
    overrides = [TWO, f"budget.fraction={LARGE}", "trainer.checkpoint_seconds=0", "method.teacher.epochs=2"]
    overrides += ["+method.search.segments=2", "method.search.epochs=1"]
    alone = quick_run(tmp_path / "alone", *overrides, method="senet")
    interrupted, real = set(), Trainer.save_checkpoint

    def interrupting_save(trainer, path):
        real(trainer, path)
        stage = trainer.lightning_module.name
        if stage not in interrupted:
            interrupted.add(stage)
            raise Interrupted

    monkeypatch.setattr(Trainer, "save_checkpoint", interrupting_save)
    for _ in alone[0].stages:
        with pytest.raises(Interrupted):
            quick_run(tmp_path / "often", *overrides, method="senet")
    record, folder = quick_run(tmp_path / "often", *overrides, method="senet")
    assert_same_tensors(folder, alone[1])
    assert lasting(record) == lasting(alone[0])


def run_and_die_at(folder, writes, *overrides):
    """SIGKILLs itself in its `writes`-th fsync; the numbers of the processes below it are left in a file."""
    real, left = os.fsync, [writes]

    def fatal(descriptor):
        left[0] -= 1
        if left[0] == 0:
            (folder / "peers").write_text(" ".join(map(str, child_processes(os.getpid()))))
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fatal
    quick_run(folder, *overrides)


def child_processes(process):
    """Numbers of all processes below `process` (Linux)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
            parents[int(path.parts[2])] = int(parent) if state != "Z" else 0
    found, new = set(), {process}
    while new := {number for number, parent in parents.items() if parent in new}:
        found |= new
    return found


@pytest.mark.slow
def test_no_process_outlives_the_first(tmp_path):
    context = multiprocessing.get_context("spawn")
    job = context.Process(target=run_and_die_at, args=(tmp_path, 3, TWO, "trainer.checkpoint_seconds=0"))
    job.start()
    job.join(600)
    numbers = [int(number) for number in (tmp_path / "peers").read_text().split()]
    assert len(numbers) >= 2  # the peer and what started it
    assert gone(numbers)
