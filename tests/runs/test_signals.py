"""Notice before the end of a job: the training is saved at the end of the batch, before the handler that ends it."""

import os
import signal

import pytest
from quick_runs import SMALL, assert_same_tensors, lasting, quick_run

from relinearize.methods.stage.stage import Stage
from relinearize.records.run import find_records

END = 75  # exit code of the handler, as of submitit's, which queues the job again before it exits


# Four batches an epoch in three parts: some end with a batch fewer than others.
PARTS = (f"budget.fraction={SMALL}", "method.search.batch_size=50", "method.finetune.batch_size=50")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(record, folder, stage of each step) of the run without any notice."""
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        real = Stage.training_step
        patch.setattr(Stage, "training_step", lambda stage, *rest: steps.append(stage.name) or real(stage, *rest))
        return *quick_run(tmp_path_factory.mktemp("whole"), *PARTS), steps


@pytest.fixture
def notice(monkeypatch):
    """(steps trained so far, [after how many there is notice, by which signal])."""

    def end(number, frame):
        raise SystemExit(END)

    steps, coming = [], []
    real = Stage.training_step

    def counted(stage, *arguments):
        steps.append(stage.name)
        if coming and len(steps) == coming[0]:
            os.kill(os.getpid(), coming[1])  # whose handler would exit in the middle of this step
        return real(stage, *arguments)

    monkeypatch.setattr(Stage, "training_step", counted)
    # As under submitit, and as the command line has it.
    before = [signal.signal(signal.SIGUSR2, end), signal.signal(signal.SIGTERM, signal.default_int_handler)]
    yield steps, coming
    signal.signal(signal.SIGUSR2, before[0])
    signal.signal(signal.SIGTERM, before[1])


def run_in_pieces(notice, every, number, folder, *overrides):
    """A run that has notice after each `every` steps. Returns how it ended before its end."""
    steps, coming = notice
    ends = []
    while True:
        coming[:] = [len(steps) + every, number]
        try:
            quick_run(folder, *overrides)
            return ends
        except (SystemExit, KeyboardInterrupt) as end:
            ends.append(type(end))


@pytest.mark.parametrize(
    ("number", "every", "ends"),
    [
        pytest.param(signal.SIGUSR2, 8, 4 * [SystemExit], id="USR2", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 22, [KeyboardInterrupt], id="TERM"),
    ],
)
def test_run_with_notice_takes_no_step_twice_and_ends_as_the_undisturbed(
    tmp_path_factory, undisturbed, notice, number, every, ends
):
    whole, folder, wanted = undisturbed
    pieces = tmp_path_factory.mktemp("pieces")
    found = run_in_pieces(notice, every, number, pieces, *PARTS)
    assert found[: len(ends)] == ends and set(found) == set(ends)
    assert notice[0] == wanted
    ((path, record),) = find_records([pieces / "runs"])
    assert_same_tensors(path.parent, folder)
    assert lasting(record) == lasting(whole)


@pytest.mark.slow
def test_notice_waits_until_accumulated_gradients_are_used(tmp_path_factory, notice):
    """Gradients are in no checkpoint: the training is saved after the optimizer's next step."""
    settings = [*PARTS, "+trainer.lightning.accumulate_grad_batches=2"]
    whole, folder = quick_run(tmp_path_factory.mktemp("whole"), *settings)
    steps = list(notice[0])
    notice[0].clear()
    pieces = tmp_path_factory.mktemp("pieces")
    assert run_in_pieces(notice, 7, signal.SIGUSR2, pieces, *settings)  # odd: most come between two steps
    assert notice[0] == steps
    ((path, record),) = find_records([pieces / "runs"])
    assert_same_tensors(path.parent, folder)
    assert lasting(record) == lasting(whole)
