"""The term of the loss that keeps polynomials near the ReLU."""

import pytest
import torch
from quick_runs import SMALL, quick_plan, quick_run
from safetensors.torch import load_file
from torch import nn

from relinearize.errors import UserError
from relinearize.methods.replacement import PolynomialError, Quadratic
from relinearize.methods.stage import Stage
from relinearize.relu.activation import MaskedReLU, ReplacedReLU
from relinearize.relu.sites import named_sites, to_replaced


def square(mask):
    """A site whose removed positions return z^2."""
    site = ReplacedReLU(torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1), mask.shape)
    site.mask.copy_(mask)
    return site


def test_by_hand():
    """z = 2 and -1: the square is 4 and 1, the ReLU 2 and 0."""
    network = nn.Sequential(square(torch.tensor([[[False, False]]])), MaskedReLU((1, 1, 2), 1))
    error = PolynomialError(network)
    z = torch.tensor([[[[2.0, -1.0]]]], requires_grad=True)
    with error.watching():
        network(z)
    torch.testing.assert_close(error.value, torch.tensor(1 + (2**2 + 1**2) / 2**2).log())
    (gradient,) = torch.autograd.grad(error.value, z)
    # of the numerator alone: (4 - 2) (4 - 1) 2 / 4 and 1 (-2) 2 / 4, over 1 + error
    torch.testing.assert_close(gradient.flatten(), torch.tensor([12.0, -4.0]) / 4 / (9 / 4))


def test_kept_positions_have_none_and_sites_are_summed():
    network = nn.Sequential(square(torch.tensor([[[True]]])), square(torch.tensor([[[False]]])))
    error = PolynomialError(network)
    with error.watching():
        network(torch.full((1, 1, 1, 1), 3.0))
    torch.testing.assert_close(error.value, torch.tensor(1 + (9 - 3) ** 2 / 3**2).log())
    network(torch.full((1, 1, 1, 1), 7.0))  # not looked at
    torch.testing.assert_close(error.value, torch.tensor(1 + (9 - 3) ** 2 / 3**2).log())


def test_activations_that_would_escape_are_held():
    """A deep chain of layers with quadratics, each fitted to what the ones before give it, that learns to grow."""

    def grown(weight):
        torch.manual_seed(0)
        layers = [part for _ in range(4) for part in (nn.Conv2d(8, 8, 1), MaskedReLU((8, 1, 1)))]
        network = nn.Sequential(*layers)
        for index, site in enumerate(network[1::2]):
            site.index = index
            site.mask.fill_(False)
        images = torch.randn(256, 8, 1, 1)
        to_replaced(network, Quadratic().coefficients(network, [(images, None)], 0))
        error = PolynomialError(network)
        optimizer = torch.optim.SGD(network.parameters(), 0.02)
        for _ in range(60):
            with error.watching():
                target = network(images).abs().mean().log()
            optimizer.zero_grad()
            (weight * error.value - target).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        return float(error.value)

    held, free = grown(10.0), grown(0.0)
    assert held < 1 < 4 < free


def test_a_run_reports_it_and_its_weight_is_in_the_key(tmp_path, monkeypatch):
    words = (f"budget.fraction={SMALL}", "replacement=quadratic")
    estimated, estimate = [], Stage.estimate_norms
    monkeypatch.setattr(Stage, "estimate_norms", lambda self, net: estimated.append(self.name) or estimate(self, net))
    record, _ = quick_run(tmp_path, *words)
    assert estimated == ["finetune"] * len(record.stages["finetune"].history), "for each validation"
    assert all(row["train/polynomial_error"] > 0 for row in record.stages["finetune"].history)
    keys = {quick_plan(tmp_path, *words, f"replacement.error_weight={weight}").finetune.key for weight in (0, 0.5, 1)}
    assert len(keys) == 3
    record, _ = quick_run(tmp_path, *words, "replacement.error_weight=0")
    assert not any("train/polynomial_error" in row for row in record.stages["finetune"].history)
    assert len(estimated) == len(record.stages["finetune"].history), "as always"


def test_batch_norms_of_narrower_widths_keep_their_statistics(tmp_path):
    _, folder = quick_run(tmp_path, f"budget.fraction={SMALL}", "replacement=quadratic", method="senetpp")
    (narrow,) = folder.parents[1].glob("store/finetune/*/width-0.5/weights.safetensors")
    variances = {name: value for name, value in load_file(narrow).items() if name.endswith("running_var")}
    assert variances and not any(value.eq(1).all() for value in variances.values()), "those that a reset leaves"


def test_a_weight_below_zero_is_refused():
    with pytest.raises(UserError, match=r"replacement\.error_weight=-1: must be a number >= 0"):
        Quadratic(error_weight=-1)


def test_it_is_in_compiled_steps(without_code_generation):
    site = square(torch.tensor([[[False]]]))
    network = nn.Sequential(nn.Conv2d(1, 1, 1), site)
    error, images = PolynomialError(network), torch.randn(5, 1, 1, 1)
    with error.watching():
        network(images)
    eager = error.value
    network.compile()
    with error.watching():
        network(images)
    assert named_sites(network) and torch.equal(error.value, eager)
    error.value.backward()
    assert network[0].weight.grad.abs() > 0
