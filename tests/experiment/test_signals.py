"""Notice before the end of a job: the training is saved at the end of the batch, before the handler that ends it."""

import os
import signal

import pytest
from quick_runs import SMALL, assert_same_tensors, lasting, quick_run

from relinearize.experiment.records import find_records
from relinearize.methods.stage import Stage

END = 75  # exit code of the handler, as of submitit's, which queues the job again before it exits


@pytest.fixture
def notice(monkeypatch):
    """(steps trained so far, after how many there is notice); whoever started the process exits on USR2."""

    def end(number, frame):
        raise SystemExit(END)

    steps, lifetimes = [], []
    real = Stage.training_step

    def counted(stage, *arguments):
        steps.append(stage.name)
        if lifetimes and len(steps) == lifetimes[0]:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert signal.getsignal(signal.SIGUSR2) is not end, "in the middle of a step nobody may exit"
        return real(stage, *arguments)

    monkeypatch.setattr(Stage, "training_step", counted)
    before = signal.signal(signal.SIGUSR2, end)
    yield steps, lifetimes
    signal.signal(signal.SIGUSR2, before)


def run_in_pieces(notice, every, folder, *overrides, method="snl"):
    """A run that has notice after each `every` steps. Returns the number of its lives."""
    steps, lifetimes = notice
    lives = 1
    while True:
        lifetimes[:] = [len(steps) + every]
        try:
            quick_run(folder, *overrides, method=method)
            return lives
        except SystemExit as end:
            assert end.code == END
            lives += 1


def test_run_with_notice_every_few_steps_takes_no_step_twice_and_ends_as_the_undisturbed(tmp_path, notice):
    """Four batches an epoch in three parts: some end with a batch fewer than others."""
    overrides = (f"budget.fraction={SMALL}", "method.search.batch_size=50", "method.finetune.batch_size=50")
    steps, _ = notice
    whole, folder = quick_run(tmp_path / "whole", *overrides)
    undisturbed = steps[:]
    steps.clear()
    assert run_in_pieces(notice, 8, tmp_path / "pieces", *overrides) >= 5
    assert steps == undisturbed
    ((path, record),) = find_records([tmp_path / "pieces" / "runs"])
    assert_same_tensors(path.parent, folder)
    assert lasting(record) == lasting(whole)
