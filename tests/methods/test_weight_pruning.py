"""Unstructured pruning: the zeros by hand, runs of method=weight_pruning from end to end."""

import pytest
import torch
from quick_runs import quick_plan, quick_run
from safetensors.torch import load_file
from torch import nn

from relinearize.backbones.weights import zero_share
from relinearize.commands.evaluate import main as evaluate_run
from relinearize.errors import UserError
from relinearize.methods.baselines.weight_pruning import PrunedDistill
from relinearize.records.run import find_records
from relinearize.relu.sites import linearize
from relinearize.runs.pipeline import check_stages


def test_the_smallest_weights_of_all_layers_together_go_and_stay_zero():
    network = linearize(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), (2,))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[5.0, -6.0], [7.0, -1.0]]))
        network[2].weight.copy_(torch.tensor([[2.0, -3.0], [8.0, 4.0]]))
        network[0].bias.zero_()
    stage = PrunedDistill(network, network, share=0.5, epochs=1, batch_size=2, learning_rate=0.1)
    assert stage.weights()["0.weight"].tolist() == [[5, -6], [7, 0]]
    assert stage.weights()["2.weight"].tolist() == [[0, 0], [8, 0]]
    optimizer = stage.configure_optimizers()
    stage.loss(torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 1, 0, 1]))[0].backward()
    optimizer.step()
    found = stage.weights()
    assert set(found) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert (found["0.weight"] == 0).tolist() == [[False, False], [False, True]]
    assert found["2.weight"][1, 0] != 8
    assert zero_share(found) == 50


def test_a_run_at_debug_scale(typed, tmp_path):
    """Two steps a stage, by the command: all ReLUs stay, whatever becomes of the weights."""
    status, _, printed = typed(
        "run", "method=weight_pruning", "scale=debug", "dataset.subset=100", "backbone.width=8",
        "trainer.progress=none",
    )  # fmt: skip
    assert status == 0, printed
    ((_, record),) = find_records([tmp_path / "outputs/debug/runs"])
    assert (record.method.name, record.unit, record.replacement) == ("weight-pruning", "none", "identity")
    assert record.budget.met == record.budget.total == 2304
    assert record.zero_weights == pytest.approx(90, abs=0.01)


def test_zeros_survive_the_fine_tuning_and_go_with_other_searches(taught):
    share = ["method/finetune=weight_pruning", "method.finetune.share=0.75", "method.finetune.learning_rate=0.05"]
    record, folder = quick_run(taught(), "method=random", *share, "budget.fraction=0.3", method="any search")
    assert record.zero_weights == pytest.approx(75, abs=0.01) and record.unit == "positions"
    assert zero_share(load_file(folder / "weights.safetensors")) == record.zero_weights
    assert evaluate_run([f"run={folder}", "accelerator=cpu"])["test"] == pytest.approx(record.accuracy.test)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["budget.relus=400"], "AllReLUs keeps 2,304 ReLUs; give no other budget"),
        (["budget=all", "method.finetune.share=1"], "method.finetune.share=1: must be a number > 0 and < 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        check_stages(quick_plan(tmp_path, *settings, method="weight_pruning"))
