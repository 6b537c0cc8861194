"""Per-class accuracy, calibration and the multipliers of classes, against values computed by hand."""

import math

import pytest
import torch
from quick_runs import LARGE, assert_same_tensors, quick_run
from torch import nn

from relinearize.errors import UserError
from relinearize.methods.class_multipliers import ClassMultipliers
from relinearize.methods.distill import Distill
from relinearize.methods.losses import measure_predictions
from relinearize.methods.stage.stage import Stage
from relinearize.records.run import AccuracyRecord, PredictionsRecord

LOG = math.log


class Given(nn.Module):
    """Logits are the images themselves."""

    def forward(self, images):
        return images


def test_predictions_by_hand():
    """Four images in two batches, three classes: confidences 0.8 (right), 0.8 (wrong), 0.6 (right), 0.6 (right)."""
    shares = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.6, 0.2, 0.2]])
    logits, labels = shares.log() + 3, torch.tensor([0, 0, 1, 0])
    accuracy, found = measure_predictions(Given(), [(logits[:3], labels[:3]), (logits[3:], labels[3:])])
    assert accuracy == 75
    assert found["per_class"] == [pytest.approx(200 / 3), 100, None]
    assert found["ece"] == pytest.approx(100 * (0.5 * (0.8 - 0.5) + 0.5 * (1 - 0.6)), rel=1e-5)
    assert found["nll"] == pytest.approx(-(LOG(0.8) + LOG(0.1) + 2 * LOG(0.6)) / 4, rel=1e-5)


def test_class_spread_by_hand():
    """The classes lost 10, 25, -5 and 0 points; of the fifth there are no test images."""
    before, now = [90.0, 80.0, 70.0, 60.0, None], [80.0, 55.0, 75.0, 60.0, None]
    teacher, ours = (PredictionsRecord(per_class=values, ece=1.0, nll=1.0) for values in (before, now))
    numbers = dict(test=67.5, test_last=None, holdout=None, teacher_test=75.0, n_test=8, n_holdout=0)
    record = AccuracyRecord(**numbers, selection="last", selected_epoch=None, predictions=ours)
    assert record.class_spread is None
    assert record.model_copy(update={"teacher_predictions": teacher}).class_spread == 30


def test_predictions_of_a_network_that_grew_beyond_all_bounds():
    logits = torch.tensor([[float("nan"), 1.0], [float("inf"), 0.0]])
    accuracy, found = measure_predictions(Given(), [(logits, torch.tensor([1, 0]))])
    assert accuracy == 50 and (found["ece"], found["nll"]) == (None, None)
    accuracy, found = measure_predictions(Given(), [(logits, torch.tensor([0, 0]))])  # argmax finds what is no number
    assert accuracy == 50 and found["per_class"] == [50, None]


def test_certain_images_are_in_the_last_of_fifteen_bins():
    logits, labels = torch.tensor([[30.0, 0.0], [30.0, 0.0], [3.5, 0.0], [3.5, 0.0]]), torch.tensor([0, 1, 0, 0])
    _, found = measure_predictions(nn.Identity(), [(logits, labels)])
    confidence = (2 + 2 * torch.tensor(3.5).sigmoid().item()) / 4
    assert found["ece"] == pytest.approx(100 * abs(confidence - 0.75), rel=1e-3)


def test_multipliers_by_hand():
    """Class 0 has loss log 4, class 1 log 4/3, twice each; class 2 has no images."""
    shares = torch.tensor([[0.25, 0.5, 0.25], [0.125, 0.75, 0.125]])
    logits, labels = shares.log().repeat(2, 1).requires_grad_(), torch.tensor([0, 1, 0, 1])
    multipliers = ClassMultipliers(0.5)
    assert multipliers.penalty(logits, labels).item() == 0
    multipliers.share(last_of_epoch=True)
    violation = LOG(4) - (LOG(4) + LOG(4 / 3)) / 2
    torch.testing.assert_close(multipliers.state[0], torch.tensor([0.5 * violation, 0, 0]).double(), rtol=1e-6, atol=0)
    penalty = multipliers.penalty(logits, labels)
    assert penalty.item() == pytest.approx(0.5 * violation**2, rel=1e-5)
    (gradient,) = torch.autograd.grad(penalty, logits)
    assert gradient[0, 0] < 0 < gradient[1, 1], "class 0 is to become likelier at the cost of class 1"
    multipliers.share(last_of_epoch=False)  # within an epoch the sums go on
    multipliers.penalty(logits, labels)
    multipliers.share(last_of_epoch=True)
    assert multipliers.state[0, 0].item() == pytest.approx(violation, rel=1e-6)
    assert multipliers.state[1:].eq(0).all()


def test_multipliers_of_a_checkpoint_go_to_the_device_of_the_training():
    multipliers = ClassMultipliers(0.5)
    multipliers.load(torch.zeros(3, 2, dtype=torch.float64))  # on the CPU
    logits, labels = torch.zeros(4, 2, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    assert multipliers.penalty(logits, labels).device.type == multipliers.state.device.type == "meta"


@pytest.mark.parametrize("rate", [0, -1, "much"])
def test_rate_must_be_positive(rate):
    with pytest.raises(UserError, match=r"finetune\.class_multiplier_rate=.*: must be a number > 0"):
        Distill(Given(), Given(), epochs=1, batch_size=2, learning_rate=0.1, class_multiplier_rate=rate)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "stage", "settings"),
    [
        ("relupruner", "search", ["scale=debug"]),
        ("filter_pruning", "search", ["scale=debug", "method.search.criterion=learned"]),
        ("rlnet", "finetune", ["budget.fraction=0.5", "method.search.epochs=1"]),
    ],
)
def test_stages_with_a_loss_of_their_own_have_the_multipliers(tmp_path, method, stage, settings):
    """They distil, so they take the rate; their loss had left the multipliers out, and ended in a traceback."""
    record, _ = quick_run(tmp_path, *settings, f"+method.{stage}.class_multiplier_rate=5", method=method)
    first, *_ = record.stages[stage].history
    assert 0 in [value for name, value in first.items() if name.endswith("class_penalty")]


@pytest.mark.slow
@pytest.mark.parametrize("finetune", ["distill", "retrain"])
def test_interrupted_training_keeps_its_multipliers(tmp_path, monkeypatch, finetune):
    """Interrupted in the second epoch of the fine-tuning, when the multipliers are above 0."""
    settings = [f"budget.fraction={LARGE}", f"method/finetune={finetune}", "method.finetune.class_multiplier_rate=5"]
    settings += ["trainer.checkpoint_seconds=0", "method.finetune.epochs=3"]
    without, _ = quick_run(tmp_path / "1", *settings, "method.finetune.class_multiplier_rate=null", method="random")
    alone, folder = quick_run(tmp_path / "1", *settings, method="random")
    history = alone.stages["finetune"].history
    assert history[0]["train/class_penalty"] == 0 < history[1]["train/class_penalty"]
    assert without.key != alone.key and without.accuracy.predictions != alone.accuracy.predictions
    assert alone.accuracy.teacher_predictions == without.accuracy.teacher_predictions
    assert alone.accuracy.class_spread >= 0

    real = Stage.on_train_epoch_end

    def interrupted(stage):
        if stage.name == "finetune" and stage.position[0] == 2:
            raise KeyboardInterrupt
        real(stage)

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "on_train_epoch_end", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            quick_run(tmp_path / "2", *settings, method="random")
    assert_same_tensors(quick_run(tmp_path / "2", *settings, method="random")[1], folder)
