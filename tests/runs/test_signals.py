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
ACCUMULATED = "+trainer.lightning.accumulate_grad_batches=2"
SCHEDULER = "pytorch_lightning.callbacks.GradientAccumulationScheduler"  # asked at the start of a segment only
VARYING = f"+callbacks.accumulate={{_target_: {SCHEDULER}, scheduling: {{0: 2, 3: 1}}}}"


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
    ("settings", "every", "number", "end"),
    [
        pytest.param([], 22, signal.SIGTERM, KeyboardInterrupt, id="TERM"),
        pytest.param([VARYING], 7, signal.SIGUSR2, SystemExit, id="USR2, varying", marks=pytest.mark.slow),
        # Odd: most come between two steps of the optimizer.
        pytest.param([ACCUMULATED], 7, signal.SIGUSR2, SystemExit, id="USR2", marks=pytest.mark.slow),
    ],
)
def test_run_with_notice_takes_no_step_twice_and_ends_as_the_undisturbed(
    tmp_path_factory, notice, settings, every, number, end
):
    """Accumulated gradients are in no checkpoint: the training is saved after the optimizer's next step."""
    whole, folder = quick_run(tmp_path_factory.mktemp("whole"), *PARTS, *settings)
    steps = list(notice[0])
    notice[0].clear()
    pieces = tmp_path_factory.mktemp("pieces")
    ends = run_in_pieces(notice, every, number, pieces, *PARTS, *settings)
    assert len(ends) >= len(steps) // every - 1 and set(ends) == {end}
    assert notice[0] == steps
    ((path, record),) = find_records([pieces / "runs"])
    assert_same_tensors(path.parent, folder)
    assert lasting(record) == lasting(whole)
