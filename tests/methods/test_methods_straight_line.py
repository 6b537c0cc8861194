"""SNL's search and distillation against the papers' formulas written out below, in float64.

The reference knows nothing of the project: its own forward pass (with batch statistics and running averages), its own
losses, its own Adam and SGD. Sources: SNL (ICML 2022) Algorithm 1 and the values of the official code.
"""

import copy
import math

import pytest
import torch
from torch import nn

from relinearize.methods.distill import Distill
from relinearize.methods.snl import SNLSearch
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, named_sites, to_masked, to_sloped

IMAGES, SIZE, CLASSES, TEMPERATURE = 6, 5, 3, 4.0
TOLERANCE = 1e-10


class SmallNetwork(nn.Module):
    """conv - batch norm - ReLU - conv - batch norm - ReLU - mean - linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(4), nn.ReLU()
        self.conv2 = nn.Conv2d(4, 3, 3, stride=2, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(3), nn.ReLU()
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, images):
        features = self.relu1(self.bn1(self.conv1(images)))
        features = self.relu2(self.bn2(self.conv2(features)))
        return self.linear(features.mean((2, 3)))


@pytest.fixture
def networks():
    """(student, teacher): linearized, in float64, with different weights so that the distillation term is at work."""
    torch.manual_seed(5)
    student, teacher = (linearize(SmallNetwork(), (2, SIZE, SIZE)).double() for _ in range(2))
    return student, teacher.eval().requires_grad_(False)


@pytest.fixture
def batches():
    torch.manual_seed(6)
    return [
        (torch.randn(IMAGES, 2, SIZE, SIZE, dtype=torch.float64), torch.randint(CLASSES, (IMAGES,))) for _ in range(3)
    ]


# ---- the reference -----------------------------------------------------------------------------------------------


def reference_norm(values, state, name, train):
    """Batch norm with momentum 0.1: biased variance for the output, unbiased for the running average."""
    if train:
        mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False)
        count = values.numel() / values.shape[1]
        with torch.no_grad():
            state[f"{name}.running_mean"] = 0.9 * state[f"{name}.running_mean"] + 0.1 * mean
            unbiased = variance * count / (count - 1)
            state[f"{name}.running_var"] = 0.9 * state[f"{name}.running_var"] + 0.1 * unbiased
    else:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scaled = (values - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
    return scaled * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def reference_forward(images, state, slopes, train):
    """y = alpha * relu(x) + (1 - alpha) * x at both sites."""
    features = torch.conv2d(images, state["conv1.weight"], padding=1)
    features = reference_norm(features, state, "bn1", train)
    features = slopes[0] * features.clamp(min=0) + (1 - slopes[0]) * features
    features = torch.conv2d(features, state["conv2.weight"], stride=2)
    features = reference_norm(features, state, "bn2", train)
    features = slopes[1] * features.clamp(min=0) + (1 - slopes[1]) * features
    return features.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def reference_loss(logits, teacher_logits, labels):
    """CE + T^2 * batch-mean KL(teacher || student), from probabilities."""
    cross_entropy = -torch.log(torch.softmax(logits, 1)[torch.arange(IMAGES), labels]).sum() / IMAGES
    wanted, found = torch.softmax(teacher_logits / TEMPERATURE, 1), torch.softmax(logits / TEMPERATURE, 1)
    divergence = (wanted * (wanted.log() - found.log())).sum() / IMAGES
    return cross_entropy + TEMPERATURE**2 * divergence


def reference_state(network):
    state = {key: value.detach().clone() for key, value in network.state_dict().items() if "tracked" not in key}
    for key, value in state.items():
        value.requires_grad_("running" not in key)
    return state


def trained_keys(state):
    return [key for key in state if "running" not in key]


def compare(network, state):
    """Every weight and batch-norm statistic of `network` equals the reference's."""
    own = {key: value for key, value in network.state_dict().items() if "tracked" not in key}
    for key, value in state.items():
        assert torch.allclose(own[key], value.detach(), rtol=0, atol=TOLERANCE), key
    return own


def run_steps(stage, batches):
    """What a trainer does with a stage, without one."""
    optimizer = stage.configure_optimizers()
    stage.train()
    for index, batch in enumerate(batches):
        optimizer.zero_grad()
        loss, _ = stage.loss(*batch)
        loss.backward()
        optimizer.step()
        assert math.isfinite(loss.item()), index


# ---- the comparisons ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha_learning_rate", [None, 0.4])
def test_three_search_steps_equal_the_formulas(networks, batches, alpha_learning_rate):
    """Adam (0.9, 0.999, 1e-8) on weights and alphas; at rate 0.4 some alphas turn negative, where |alpha| bends."""
    student, teacher = networks
    lasso, rate = 0.05, 1e-3
    alpha_rate = alpha_learning_rate or rate
    to_sloped(student)
    student.double()
    state, teacher_state = reference_state(student), reference_state(teacher)
    slopes = [f"{name}.alpha" for name in named_sites(student)]
    stage = SNLSearch(
        student, teacher, budgets=[1], on_snapshot=print, lasso=lasso, alpha_learning_rate=alpha_learning_rate,
        epochs=1, batch_size=IMAGES, learning_rate=rate,
    )  # fmt: skip
    run_steps(stage, batches)

    first = {key: torch.zeros_like(state[key]) for key in trained_keys(state)}
    second = copy.deepcopy(first)
    for step, (images, labels) in enumerate(batches, start=1):
        logits = reference_forward(images, state, [state[key] for key in slopes], train=True)
        ones = [torch.ones_like(state[key]) for key in slopes]
        teacher_logits = reference_forward(images, teacher_state, ones, train=False)
        loss = reference_loss(logits, teacher_logits, labels) + lasso * sum(state[key].abs().sum() for key in slopes)
        gradients = torch.autograd.grad(loss, [state[key] for key in trained_keys(state)])
        for key, gradient in zip(trained_keys(state), gradients, strict=True):
            first[key] = 0.9 * first[key] + 0.1 * gradient
            second[key] = 0.999 * second[key] + 0.001 * gradient**2
            mean, square = first[key] / (1 - 0.9**step), second[key] / (1 - 0.999**step)
            change = (alpha_rate if key in slopes else rate) * mean / (square.sqrt() + 1e-8)
            state[key] = (state[key] - change).detach().requires_grad_()
    own = compare(student, state)
    assert set(slopes) <= set(own)
    if alpha_learning_rate:
        assert min(own[key].min().item() for key in slopes) < 0


def test_two_distillation_steps_equal_the_formulas(networks, batches):
    """SGD with momentum 0.9 and weight decay 5e-4 under a fixed mask; the mask and the teacher stay as they were."""
    student, teacher = networks
    torch.manual_seed(7)
    mask = Mask({name: torch.rand(site.mask.shape) < 0.4 for name, site in named_sites(student).items()})
    to_masked(student, mask)
    state, teacher_state = reference_state(student), reference_state(teacher)
    rate, decay = 0.1, 5e-4
    stage = Distill(
        student, teacher, temperature=TEMPERATURE, epochs=1, batch_size=IMAGES, learning_rate=rate, weight_decay=decay
    )
    run_steps(stage, batches[:2])

    slopes = [kept.double() for kept in mask.values()]
    velocity = {}
    for images, labels in batches[:2]:
        logits = reference_forward(images, state, slopes, train=True)
        teacher_logits = reference_forward(images, teacher_state, [torch.ones_like(s) for s in slopes], train=False)
        loss = reference_loss(logits, teacher_logits, labels)
        gradients = torch.autograd.grad(loss, [state[key] for key in trained_keys(state)])
        for key, gradient in zip(trained_keys(state), gradients, strict=True):
            gradient = gradient + decay * state[key].detach()
            velocity[key] = 0.9 * velocity[key] + gradient if key in velocity else gradient
            state[key] = (state[key] - rate * velocity[key]).detach().requires_grad_()
    compare(student, state)
    compare(teacher, teacher_state)
    assert Mask.of(student) == mask


def test_search_leaves_the_teacher_as_it_was(networks, batches):
    student, teacher = networks
    to_sloped(student)
    student.double()
    before = copy.deepcopy(teacher.state_dict())
    stage = SNLSearch(student, teacher, budgets=[1], on_snapshot=print, epochs=1, batch_size=6, learning_rate=0.1)
    run_steps(stage, batches)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert not any("teacher" in key or key.startswith("_frozen") for key in stage.state_dict())
