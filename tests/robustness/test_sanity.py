"""Sanity checks: an honest network passes all, networks with masked gradients and other defects are caught."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attack_toys import batch, everything_about, toy_network
from sklearn.datasets import load_digits
from torch import Tensor, nn

from relinearize.relu.activation import ReplacedReLU
from relinearize.robustness.attack import fgsm
from relinearize.robustness.fixed_point import fixed_point
from relinearize.robustness.sanity import (
    CHECKS,
    STEPS,
    Case,
    black_box,
    clean_agreement,
    deployed_arithmetic,
    logits_not_probabilities,
    sweep_radii,
    threat_model,
    transfer,
)

EPSILON = 24  # times 1/255; digits have strong contrasts
TESTED = 100


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    return images[order], torch.tensor(found.target)[order].long()


def trained_network(seed: int = 0) -> nn.Module:
    """A small network trained on digits, half of each batch attacked by one step; a few seconds."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    images, labels = (part[TESTED:] for part in digits())
    for step in range(200):
        rows = torch.arange(step * 128, step * 128 + 128) % len(labels)
        x, y = images[rows], labels[rows]
        x = torch.cat([x[:64], fgsm(network, x[64:], y[64:], epsilon=16 / 255)])
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def honest() -> nn.Module:
    return trained_network()


@pytest.fixture(scope="module")
def tested() -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[:TESTED], labels[:TESTED]


class Changed(nn.Module):
    """A network with something before or behind it."""

    def __init__(self, network: nn.Module, before=lambda x: x, behind=lambda logits: logits) -> None:
        super().__init__()
        self.network, self.before, self.behind = network, before, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.network(self.before(x)))


def sanity_checks(network, images, labels, *, epsilon, others=None, reference=None):
    """All checks, as an evaluation makes them piece by piece."""
    case = Case(network, images, labels, epsilon)
    found = [check(case) for check in CHECKS.values()]
    if others:
        found.append(transfer(case, others))
    if reference is not None:
        found.append(clean_agreement(network, images, reference))
    return found


def failed(network: nn.Module, tested, **settings) -> set[str]:
    found = sanity_checks(network.eval(), *tested, epsilon=EPSILON, **settings)
    assert all(check.message and "\n" not in check.message for check in found)
    assert all(isinstance(value, int | float) for check in found for value in check.numbers.values())
    return {check.name for check in found if not check.passed}


def test_an_honest_network_passes_all(honest: nn.Module, tested) -> None:
    other = trained_network(1)
    before = everything_about(honest)
    checks = sanity_checks(honest, *tested, epsilon=EPSILON, others={"other seed": other}, reference=honest)
    assert everything_about(honest) == before
    assert [check.name for check in checks] == [*CHECKS, "transfer", "clean agreement"]
    assert not [check for check in checks if not check.passed]
    numbers = {check.name: check.numbers for check in checks}
    assert list(numbers["epsilon sweep"]) == ["3", "6", "12", "24", "48", "96", "192"]
    assert 20 < numbers["single step"]["pgd"] < numbers["epsilon sweep"]["3"] < 100, "the network shows nothing"
    assert numbers["transfer"]["other seed"] > numbers["transfer"]["own"]


def test_sweeps_reach_from_what_an_attack_takes_to_what_nobody_survives(honest: nn.Module, tested) -> None:
    assert sweep_radii(8) == [1, 2, 4, 8, 16, 32, 64]
    assert sweep_radii(0.5) == [0.125, 0.25, 0.5, 1, 2, 4, 64]
    assert sweep_radii(0.1) == [0.1, 0.2, 0.4, 0.8, 64]
    assert sweep_radii(200) == [25, 50, 100, 200, 255]
    images, labels = tested
    for name, check in CHECKS.items():
        if name not in ("restarts", "steps", "black box"):  # slow, and without radii of their own
            assert check(Case(honest, images[:50], labels[:50], epsilon=0.5)).passed, name


def test_quantised_pixels_mask_gradients(honest: nn.Module, tested) -> None:
    """torch.round has gradient zero: PGD does not leave its start, Square and transferred attacks get through."""
    masked = Changed(honest, before=lambda x: (x * 8).round() / 8)
    caught = failed(masked, tested, others={"without rounding": honest})
    assert caught >= {"zero gradients", "epsilon sweep", "black box", "transfer"}


def test_saturated_logits_mask_gradients(honest: nn.Module, tested) -> None:
    """Probabilities of exactly 1 in float32: the cross-entropy has no gradient, the margin has."""
    masked = Changed(honest, behind=lambda logits: logits * 1e4)
    assert failed(masked, tested, others={"unscaled": honest}) >= {
        "zero gradients",
        "epsilon sweep",
        "other loss",
        "black box",
        "transfer",
    }


def test_probabilities_are_caught(honest: nn.Module, tested) -> None:
    assert "logits" in failed(Changed(honest, behind=lambda logits: logits.softmax(1)), tested)


def test_outputs_that_are_no_numbers_are_not_taken_for_probabilities(honest: nn.Module, tested) -> None:
    images, labels = tested
    one = torch.arange(len(images))[:, None] == 1
    check = logits_not_probabilities(Case(Changed(honest, behind=lambda x: x.where(~one, torch.nan)), images, labels))
    assert check.passed and check.numbers["lowest"] < 0 and "probabilities" not in check.message
    check = logits_not_probabilities(Case(Changed(honest, behind=lambda x: x * torch.inf), images, labels))
    assert not check.passed and check.message == "no image has finite outputs"


def test_fixed_point_arithmetic(honest: nn.Module, tested) -> None:
    """Everything is a multiple of 2^-bits; with many bits the answers are those of the float network."""
    network, seen = toy_network(), []
    pixels, _ = batch(4)
    rounded = fixed_point(network, 6)
    for module in rounded.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, inputs, output: seen.append(output * 2**6))
    with torch.no_grad():
        rounded(pixels)
        assert len(seen) > 10 and all(torch.equal(values, values.round()) for values in seen)
        assert all(torch.equal(weight * 2**6, (weight * 2**6).round()) for weight in rounded.parameters())
        torch.testing.assert_close(fixed_point(network, 20)(pixels), network(pixels), rtol=1e-3, atol=1e-3)
    images, labels = tested
    case = Case(honest, images, labels, EPSILON)
    assert deployed_arithmetic(case).passed
    coarse = deployed_arithmetic(case, bits=2)
    assert not coarse.passed and coarse.numbers["pgd"] > coarse.numbers["float pgd"] + 2  # attacks miss it


def test_polynomials_are_rounded_in_fixed_point_arithmetic():
    coefficients = torch.tensor([0.3, 0.1, 0.7]).view(3, 1, 1, 1)
    rounded = fixed_point(torch.nn.Sequential(ReplacedReLU(coefficients, (1, 1, 1))), 2)
    assert rounded[0].coefficients.flatten().tolist() == [0.25, 0.0, 0.75]


def test_a_random_network_is_caught(honest: nn.Module, tested) -> None:
    """Its noise is drawn from the global random state, and one start more finds what the last one did not."""
    caught = failed(Changed(honest, before=lambda x: x + 0.1 * torch.randn_like(x)), tested)
    assert caught >= {"determinism", "random state"}


def test_train_mode_is_caught(honest: nn.Module, tested) -> None:
    training = Changed(honest).train()
    check = CHECKS["determinism"](Case(training, *tested))
    assert not check.passed
    assert check.numbers["training"] == len(list(training.modules()))
    honest.eval()


def test_normalised_images_are_caught(honest: nn.Module, tested) -> None:
    images, labels = tested
    assert not threat_model(Case(honest, (images - 0.3) / 0.2, labels, EPSILON)).passed
    assert threat_model(Case(honest, images, labels, EPSILON)).passed


def test_a_wrong_adapter_is_caught(honest: nn.Module, tested) -> None:
    images, _ = tested
    assert clean_agreement(honest, images, lambda x: honest(x)).passed
    check = clean_agreement(Changed(honest, before=lambda x: x * 1.001), images, honest)
    assert not check.passed
    assert check.numbers["difference"] > 1e-5


def test_numbers_are_those_of_the_attacks(honest: nn.Module, tested) -> None:
    from relinearize.robustness.attacks import PGD, attacked_batch

    images, labels = tested[0][:50], tested[1][:50]
    seed = int(np.random.SeedSequence([3, 0]).generate_state(1)[0])
    pgd = PGD(EPSILON, EPSILON / 4, STEPS)
    own = 100 * attacked_batch(honest, images, labels, pgd, seed, EPSILON / 255).float().mean().item()
    case = Case(honest, images, labels, EPSILON, seed=3)
    assert black_box(case, queries=3).numbers["pgd"] == own
    assert transfer(case, {}).numbers == {"own": own}
