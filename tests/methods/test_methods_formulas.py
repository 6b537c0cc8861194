"""Losses, schedules and counts against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

from relinearize.errors import UserError
from relinearize.methods.baselines.random_mask import RandomMask
from relinearize.methods.losses import accuracy, classification_loss, distillation_divergence
from relinearize.methods.snl import kept_counts, lasso_penalty, next_lasso
from relinearize.methods.stage.schedule import learning_rate
from relinearize.methods.teacher import Classifier
from relinearize.relu.budget import top_mask


def test_cross_entropy_of_two_images_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # probabilities 3/4, 1/4 and 1/2, 1/2
    assert classification_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(
        (math.log(4) + math.log(2)) / 2, rel=1e-6
    )


def test_divergence_by_hand_is_the_batch_mean_times_temperature_squared():
    """Teacher (3/4, 1/4) and student (1/2, 1/2) at temperature 2; the second image agrees and adds nothing."""
    teacher = torch.tensor([[2 * math.log(3.0), 0.0], [1.0, 5.0]], dtype=torch.float64)
    student = torch.tensor([[0.0, 0.0], [1.0, 5.0]], dtype=torch.float64)
    one_image = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = distillation_divergence(student, teacher, temperature=2.0).item()
    assert found == pytest.approx(one_image / 2 * 4, rel=1e-12)


def test_divergence_is_not_symmetric_and_vanishes_for_equal_logits():
    first, second = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    assert distillation_divergence(first, first, 4.0).item() == 0
    assert distillation_divergence(first, second, 1.0) != distillation_divergence(second, first, 1.0)


def test_losses_of_half_precision_logits_are_computed_in_float32():
    student, teacher = torch.randn(4, 10).bfloat16(), torch.randn(4, 10).bfloat16()
    found = distillation_divergence(student, teacher, 4.0)
    assert found.dtype == torch.float32
    assert found == distillation_divergence(student.float(), teacher.float(), 4.0)
    assert classification_loss(student, torch.zeros(4, dtype=torch.int64)).dtype == torch.float32


def test_lasso_penalty_is_a_plain_sum_of_magnitudes():
    alphas = [torch.tensor([[1.0, -0.5]]), torch.tensor([2.0, 0.0, 0.25])]
    assert lasso_penalty(alphas).item() == 3.75


def test_kept_counts_compare_signed_alphas_strictly():
    """As in SNL's official code a negative alpha is linear; one exactly at the threshold is linear too."""
    alphas = {"first": torch.tensor([1.0, 0.02, 0.01, 0.0]), "second": torch.tensor([-1.0, -0.02, 0.5])}
    assert kept_counts(alphas, threshold=0.01) == {"first": 2, "second": 1}


def test_next_lasso_grows_only_without_a_new_lowest_and_from_epoch_index_five():
    assert next_lasso(1e-5, count=100, lowest=100, epoch=4, growth=1.1, patience_epochs=5) == 1e-5
    assert next_lasso(1e-5, count=100, lowest=100, epoch=5, growth=1.1, patience_epochs=5) == pytest.approx(1.1e-5)
    assert next_lasso(1e-5, count=99, lowest=100, epoch=50, growth=1.1, patience_epochs=5) == 1e-5
    assert next_lasso(1e-5, count=150, lowest=100, epoch=50, growth=1.1, patience_epochs=5) == pytest.approx(1.1e-5)


def test_lambda_over_a_sequence_of_counts_compares_with_the_lowest_ever():
    """The official code's rule written out once more; 90 after 80 is a fall from 95 but no new lowest."""
    lasso, lowest, seen = 1.0, 200, []
    for epoch, count in enumerate([200, 200, 200, 200, 200, 200, 80, 95, 90, 79]):
        lasso = next_lasso(lasso, count, lowest, epoch, 2.0, 5)
        lowest = min(lowest, count)
        seen.append(lasso)
    assert seen == [1, 1, 1, 1, 1, 2, 2, 4, 8, 8]


def test_learning_rates_by_hand():
    assert [learning_rate(0.5, "constant", epoch, 10) for epoch in (0, 9)] == [0.5, 0.5]
    assert learning_rate(1.0, "cosine", 0, 4) == 1
    assert learning_rate(1.0, "cosine", 1, 4) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert learning_rate(1.0, "cosine", 2, 4) == pytest.approx(0.5)
    assert learning_rate(0.1, "milestones", 55, 100, [0.55]) == pytest.approx(0.01), "0.55 * 100 is above 55"
    snl = [learning_rate(0.1, "milestones", epoch, 160, (0.5, 0.75)) for epoch in (0, 79, 80, 119, 120, 159)]
    assert snl == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


class SignOfMean(nn.Module):
    """Class 1 where the mean pixel is above 1/2; counts in which mode it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(1), nn.Dropout()
        self.modes: set[bool] = set()

    def forward(self, images):
        self.modes.add(self.training)
        mean = images.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_accuracy_weighs_batches_by_their_images_and_gives_every_module_its_mode_back():
    network = SignOfMean()
    network.dropout.eval()
    light, dark = torch.ones(3, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    batches = [(light, torch.tensor([1, 1, 1])), (dark, torch.tensor([1]))]
    assert accuracy(network, batches) == 75.0
    assert network.modes == {False}
    assert (network.training, network.norm.training, network.dropout.training) == (True, True, False)


def test_accuracy_gives_the_modes_back_after_an_error_and_refuses_no_images():
    network = SignOfMean()
    with pytest.raises(ValueError, match="no images"):
        accuracy(network, [])
    with pytest.raises(IndexError):
        accuracy(network, [(torch.ones(2), torch.tensor([0, 1]))])
    assert network.training and network.norm.training


def test_random_masks_are_exact_nested_and_a_function_of_the_seed():
    shapes = {"first": (4, 5, 5), "second": (7,)}
    scores = RandomMask().scores(shapes, seed=3)
    small, large = top_mask(scores, 20), top_mask(scores, 60)
    assert (small.count, large.count) == (20, 60)
    assert all(bool((large[name] | ~small[name]).all()) for name in shapes)
    assert top_mask(RandomMask().scores(shapes, seed=3), 20) == small
    assert top_mask(RandomMask().scores(shapes, seed=4), 20) != small


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"selection": "newest"}, r"method\.teacher\.selection=newest .*best, last, test"),
        ({"schedule": "linear"}, r"method\.teacher\.schedule=linear .*constant, cosine, milestones"),
        ({"epochs": 0}, r"method\.teacher\.epochs=0: must be an integer >= 1"),
        ({"batch_size": 1}, r"method\.teacher\.batch_size=1: must be an integer >= 2"),
    ],
)
def test_wrong_stage_settings_are_refused_by_name(wrong, message):
    with pytest.raises(UserError, match=message):
        Classifier(nn.Linear(2, 2), **{"epochs": 1, "batch_size": 4, "learning_rate": 0.1, **wrong})
