"""Retraining: its average, its batch-norm statistics, its distillation on standardised logits."""

from types import SimpleNamespace

import pytest
import torch
from attack_toys import toy_network
from quick_runs import quick_plan, quick_run
from torch import nn
from torch.optim.swa_utils import update_bn

from relinearize.methods.losses import distillation_divergence, standardised
from relinearize.methods.retrain import Retrain
from relinearize.relu.sites import linearize
from relinearize.runs.stages import ready


def linearized():
    network = toy_network()
    network.network = linearize(network.network, (3, 8, 8))
    return network


def new_stage(network=None, **settings):
    given = {"epochs": 2, "batch_size": 10, "learning_rate": 0.1, "average_decay": 0.9, "selection": "last", **settings}
    return Retrain(linearized() if network is None else network, toy_network(), **given)


def test_standardised_logits():
    z = standardised(torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.0, 4.0]]))
    torch.testing.assert_close(z, torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]))


def test_loss_on_standardised_logits_ignores_scale_and_offset_of_the_teacher():
    stage = new_stage(standardise=True, temperature=2.0, distillation_weight=9.0, cross_entropy_weight=0.1)
    images, labels = torch.rand(10, 3, 8, 8), torch.arange(10) % 5
    stage.eval()
    loss, metrics = stage.loss(images, labels)
    logits, wanted = stage.network(images), stage._frozen[0](images)
    divergence = distillation_divergence(standardised(logits), standardised(wanted * 3 - 7), 2.0)
    expected = 0.1 * nn.functional.cross_entropy(logits, labels) + 9 * divergence
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["distillation"], divergence.detach(), rtol=1e-4, atol=1e-5)


def test_the_average_is_what_is_left_with_statistics_of_its_own(taught):
    """Straight line: exponential average of the weights after every step, then batch norms over training batches."""
    settings = ["method/finetune=retrain", "method.finetune.average_decay=0.8", "method.finetune.norm_images=60"]
    settings += ["method.search.epochs=1", "budget.fraction=0.5"]
    folder, seen = taught(), []
    with pytest.MonkeyPatch.context() as patch:
        real = Retrain.segment_end
        patch.setattr(Retrain, "segment_end", lambda stage, last: (seen.append(stage), real(stage, last))[1])
        record, _ = quick_run(folder, *settings)
    stage = seen[-1]
    plan = quick_plan(folder, *settings)
    again = ready(plan, new_stage(stage.network, norm_images=60, batch_size=60, epochs=2))
    again.average.load_state_dict(stage.average.state_dict())
    update_bn(again.further_batches(1, 1), again.average)
    for name, value in stage.average.state_dict().items():
        torch.testing.assert_close(again.average.state_dict()[name], value)
    left = plan.results.weights(plan.finetune)
    trained = stage.network.network.state_dict()
    assert any(not left[name].equal(trained[name]) for name in trained)
    assert all(left[name].equal(value) for name, value in stage.average.module.network.state_dict().items())
    assert record.stages["finetune"].epochs == 2


@pytest.mark.parametrize("segments", [1, 3])
def test_further_batches_are_those_of_a_whole_epoch(segments, tmp_path):
    plan = quick_plan(tmp_path, "budget.fraction=0.5")
    stage = ready(plan, new_stage(plan.request.new_network(), batch_size=60, epochs=2, segments=segments))
    assert [len(labels) for _, labels in stage.further_batches(0, None)] == [60, 60, 60]
    assert len(list(stage.further_batches(0, 2 * 60))) == 2 and stage.train_loader.parts == segments


def test_the_average_follows_every_step(tmp_path):
    plan = quick_plan(tmp_path, "method/finetune=retrain", "budget.fraction=0.5")
    stage = ready(plan, Retrain(
        plan.request.new_student(), plan.request.new_network(), epochs=1, batch_size=60, learning_rate=0.1,
        average_decay=0.75, selection="last",
    ))  # fmt: skip
    values, expected = [1.0, 2.0, 4.0], None
    weight = next(stage.network.parameters())
    for value in values:
        with torch.no_grad():
            weight.fill_(value)
        stage.move_average()
        decay = (0, 2 / 11, 3 / 12)[values.index(value)]  # below 0.75 while the average is young
        expected = decay * (expected or 0) + (1 - decay) * value
    assert next(stage.average.module.parameters()).flatten()[0].item() == pytest.approx(expected)
    assert not any(parameter.requires_grad for parameter in stage.average.parameters())


def test_accumulated_batches_make_one_step_of_the_average(tmp_path, monkeypatch):
    moved = []
    real = Retrain.move_average
    monkeypatch.setattr(Retrain, "move_average", lambda stage: (moved.append(stage.global_step), real(stage))[1])
    settings = ["method/finetune=retrain", "method.finetune.average_decay=0.8", "budget.fraction=0.5"]
    quick_run(tmp_path, *settings, "+trainer.lightning.accumulate_grad_batches=2", method="random")
    assert moved == sorted(set(moved)), "once after each step"


def test_without_an_average_the_trained_network_is_left():
    stage = new_stage(average_decay=None)
    assert stage.average is None and stage.result_network is stage.network


def test_the_optimizer_has_nesterov_momentum_and_the_rate_is_set_in_every_step():
    stage = new_stage(momentum=0.9, warmup=0.5)
    (group,) = stage.configure_optimizers().param_groups
    assert group["nesterov"] and group["momentum"] == 0.9
    assert [stage.rate(epochs) for epochs in (0, 0.5, 1)] == [0, pytest.approx(0.05), pytest.approx(0.1)]
    assert stage.rate(2) == pytest.approx(0)


def test_segments_are_parts_of_an_epoch():
    stage = new_stage(segments=2)
    stage.train_by(SimpleNamespace(current_epoch=3))  # Lightning's: the second half of the second epoch
    stage.train_loader = range(4)
    assert stage.epochs_before(0) == 1 + (1 + 0.5 / 4) / 2
