"""SNL's search and distillation against the papers' formulas written out below, in float64.

The reference knows nothing of the project: its own forward pass (with batch statistics and running averages), its own
losses, its own SGD (reference.py), its own Adam. Sources: SNL (ICML 2022) Algorithm 1 and the values of the official
code.
"""

import copy
import math

import pytest
import reference
import torch
from reference import compare, state_of, trained_keys

from relinearize.methods.distill import Distill
from relinearize.methods.snl import SNLSearch
from relinearize.relu.mask import Mask
from relinearize.relu.sites import named_sites, to_masked, to_sloped


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


def reference_loss(images, labels, state, teacher_state, slopes):
    """Cross-entropy and distillation of the student with `slopes` and the all-ReLU teacher."""
    logits, _ = reference.forward(images, state, slopes, train=True)
    wanted, _ = reference.forward(images, teacher_state, [torch.ones_like(slope) for slope in slopes], train=False)
    return reference.cross_entropy(logits, labels) + reference.divergence(logits, wanted)


@pytest.mark.parametrize("alpha_learning_rate", [None, 0.4])
def test_three_search_steps_equal_the_formulas(networks, batches, alpha_learning_rate):
    """Adam (0.9, 0.999, 1e-8) on weights and alphas; at rate 0.4 some alphas turn negative, where |alpha| bends."""
    student, teacher = networks
    lasso, rate = 0.05, 1e-3
    alpha_rate = alpha_learning_rate or rate
    to_sloped(student)
    student.double()
    state, teacher_state = state_of(student), state_of(teacher)
    slopes = [f"{name}.alpha" for name in named_sites(student)]
    stage = SNLSearch(
        student, teacher, budgets=[1], on_snapshot=print, lasso=lasso, alpha_learning_rate=alpha_learning_rate,
        epochs=1, batch_size=6, learning_rate=rate,
    )  # fmt: skip
    run_steps(stage, batches)

    first = {key: torch.zeros_like(state[key]) for key in trained_keys(state)}
    second = copy.deepcopy(first)
    for step, (images, labels) in enumerate(batches, start=1):
        alphas = [state[key] for key in slopes]
        loss = reference_loss(images, labels, state, teacher_state, alphas)
        loss = loss + lasso * sum(alpha.abs().sum() for alpha in alphas)
        gradients = torch.autograd.grad(loss, [state[key] for key in trained_keys(state)])
        for key, gradient in zip(trained_keys(state), gradients, strict=True):
            first[key] = 0.9 * first[key] + 0.1 * gradient
            second[key] = 0.999 * second[key] + 0.001 * gradient**2
            mean, square = first[key] / (1 - 0.9**step), second[key] / (1 - 0.999**step)
            change = (alpha_rate if key in slopes else rate) * mean / (square.sqrt() + 1e-8)
            state[key] = (state[key] - change).detach().requires_grad_()
    compare(student, state)
    own = student.state_dict()
    assert set(slopes) <= set(own)
    if alpha_learning_rate:
        assert min(own[key].min().item() for key in slopes) < 0


def test_two_distillation_steps_equal_the_formulas(networks, batches):
    """SGD with momentum 0.9 and weight decay 5e-4 under a fixed mask; the mask and the teacher stay as they were."""
    student, teacher = networks
    torch.manual_seed(7)
    mask = Mask({name: torch.rand(site.mask.shape) < 0.4 for name, site in named_sites(student).items()})
    to_masked(student, mask)
    state, teacher_state = state_of(student), state_of(teacher)
    rate, decay = 0.1, 5e-4
    stage = Distill(student, teacher, epochs=1, batch_size=6, learning_rate=rate, weight_decay=decay)
    run_steps(stage, batches[:2])

    ours = reference.SGD(rate, decay)
    for images, labels in batches[:2]:
        ours.step(state, reference_loss(images, labels, state, teacher_state, list(mask.values())))
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
