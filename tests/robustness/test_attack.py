"""FGSM and PGD: against torchattacks and straight-line code, inside their ball, and without a trace elsewhere."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
import torchattacks
from attack_toys import CLASSES, batch, everything_about, mixed_modes, own_labels, right, toy_network
from torch import Tensor

from relinearize.robustness.attack import LOSSES, fgsm, pgd

EPSILON, STEP = 8 / 255, 2 / 255


def drawn_from(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def targets_for(loss: str, labels: Tensor) -> Tensor:
    return torch.randn(len(labels), CLASSES, generator=drawn_from(3)) * 3 if loss == "kl" else labels


# ---- what it computes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_equals_torchattacks(steps: int) -> None:
    network, (images, labels) = toy_network(), batch()
    attack = torchattacks.PGD(network, eps=EPSILON, alpha=STEP, steps=steps, random_start=False)
    ours = pgd(network, images, labels, epsilon=EPSILON, step_size=STEP, steps=steps, random_start=False)
    assert (ours - attack(images, labels)).abs().max() <= 1e-6
    assert (ours - images).abs().max() > 0.9 * min(EPSILON, steps * STEP)


def test_fgsm_equals_torchattacks() -> None:
    network, (images, labels) = toy_network(), batch()
    ours = fgsm(network, images, labels, epsilon=EPSILON)
    assert (ours - torchattacks.FGSM(network, eps=EPSILON)(images, labels)).abs().max() <= 1e-6


def straight_line(network, images, targets, loss, temperature, steps, start) -> Tensor:
    """PGD as one writes it down, one image at a time, in float64."""
    results = []
    for image, target, x in zip(images, targets, start, strict=True):
        for _ in range(steps):
            x = x.clone().requires_grad_()
            logits = network(x.unsqueeze(0)).squeeze(0)
            if loss == "ce":
                value = logits.exp().sum().log() - logits[target]
            elif loss == "margin":
                value = max(logits[k] for k in range(CLASSES) if k != target) - logits[target]
            else:
                p, q = (torch.softmax(z / temperature, 0) for z in (target, logits))
                value = (p * (p.log() - q.log())).sum()
            value.backward()
            x = x.detach() + STEP * x.grad.sign()
            x = (image + (x - image).clamp(-EPSILON, EPSILON)).clamp(0, 1)
        results.append(x)
    return torch.stack(results)


@pytest.mark.parametrize("loss", LOSSES)
def test_equals_straight_line_code_with_a_random_start(loss: str) -> None:
    network, (images, labels) = toy_network().double(), batch(4)
    images, targets = images.double(), targets_for(loss, labels)
    targets = targets.double() if loss == "kl" else targets
    noise = torch.rand(images.shape, generator=drawn_from(5), dtype=images.dtype) * 2 * EPSILON - EPSILON
    start = (images + noise).clamp(0, 1)
    settings = {"epsilon": EPSILON, "step_size": STEP, "steps": 4, "loss": loss, "temperature": 4.0}
    ours = pgd(network, images, targets, generator=drawn_from(5), **settings)
    expected = straight_line(network, images, targets, loss, 4.0, 4, start)
    assert ours.dtype == torch.float64
    assert (ours - expected).abs().max() <= 1e-9


@pytest.mark.parametrize("loss", LOSSES)
def test_stays_in_the_ball_and_raises_the_loss(loss: str) -> None:
    network, (images, labels) = toy_network(), batch(16)
    targets = targets_for(loss, labels)
    found = pgd(network, images, targets, epsilon=EPSILON, step_size=STEP, steps=5, loss=loss, generator=drawn_from(0))
    assert (found - images).abs().max() <= EPSILON + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    with torch.no_grad():
        before, after = network(images), network(found)
    if loss == "kl":
        wanted = torch.softmax(targets, 1)
        assert -(wanted * after.log_softmax(1)).sum() > -(wanted * before.log_softmax(1)).sum()
    else:
        assert F.cross_entropy(after, labels) > F.cross_entropy(before, labels)


def test_channels_last_is_kept_and_starts_are_the_same_in_it() -> None:
    """One step from a random start: the start, not the order of additions, decides almost everywhere."""
    network, (images, labels) = toy_network(), batch()
    last = images.contiguous(memory_format=torch.channels_last)
    settings = {"epsilon": EPSILON, "step_size": 1e-6, "steps": 1}
    for more in ({}, {"restarts": 2}, {"active_only": True}, {"restarts": 2, "active_only": True}):
        plain = pgd(network, images, labels, generator=drawn_from(2), **settings, **more)
        found = pgd(network, last, labels, generator=drawn_from(2), **settings, **more)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (plain - found).abs().max() <= 3e-6


# ---- restarts and early stop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("active_only", [False, True])
def test_restarts_never_help_the_network(loss: str, active_only: bool) -> None:
    """The first restart is the attack without restarts, so each image is at least as badly off."""
    network, (images, _) = toy_network(), batch(32)
    labels = own_labels(network, images)
    settings = {"epsilon": 0.1, "step_size": 0.02, "steps": 2, "loss": loss, "active_only": active_only}
    left = [
        right(network, pgd(network, images, labels, generator=drawn_from(7), restarts=restarts, **settings), labels)
        for restarts in (1, 2, 6)
    ]
    assert 0 < left[-1].sum() < left[0].sum(), "the case shows nothing"
    for fewer, more in itertools.pairwise(left):
        assert not (more & ~fewer).any()


def test_restarts_keep_the_worst_of_the_single_attacks() -> None:
    """In float64, as the losses of several starts are computed here in batches of another size."""
    network, images = toy_network().double(), batch(32)[0].double()
    labels = own_labels(network, images)
    settings = {"epsilon": 0.1, "step_size": 0.02, "steps": 2}
    generator, singles = drawn_from(7), []
    for _ in range(3):
        singles.append(pgd(network, images, labels, generator=generator, **settings))
    together = pgd(network, images, labels, generator=drawn_from(7), restarts=3, **settings)
    for index, label in enumerate(labels):
        candidates = [single[index] for single in singles]
        with torch.no_grad():
            logits = network(torch.stack(candidates))
        value = F.cross_entropy(logits, label.expand(3), reduction="none")
        order = [(bool(z.argmax() != label), float(v)) for z, v in zip(logits, value, strict=True)]
        assert torch.equal(together[index], candidates[order.index(max(order))])


def test_restarts_of_kl_take_the_largest_loss() -> None:
    network, (images, labels) = toy_network(), batch()
    targets = targets_for("kl", labels)
    settings = {"epsilon": EPSILON, "step_size": 0.001, "steps": 1, "loss": "kl"}

    def divergence(found: Tensor) -> Tensor:
        with torch.no_grad():
            return F.kl_div(network(found).log_softmax(1), targets.softmax(1), reduction="none").sum(1)

    once, often = (
        divergence(pgd(network, images, targets, generator=drawn_from(0), restarts=n, **settings)) for n in (1, 4)
    )
    assert (often >= once - 1e-5).all()
    assert often.sum() > once.sum()


def test_active_only_leaves_finished_images_alone() -> None:
    """What is wrong at the start is returned as it is; who is never wrong gets what everyone gets.

    In float64: the batches become smaller on the way, and in float32 rounding could turn a gradient's sign.
    """
    network, (images, labels) = toy_network().double(), batch(32)
    images = images.double()
    labels = torch.where(torch.arange(32) % 4 == 0, labels, own_labels(network, images))
    at_start = right(network, images, labels)
    settings = {"epsilon": 0.012, "step_size": 0.004, "steps": 5, "random_start": False}
    usual = pgd(network, images, labels, **settings)
    early = pgd(network, images, labels, active_only=True, **settings)
    assert torch.equal(early[~at_start], images[~at_start])
    survivors = right(network, early, labels)
    assert 0 < survivors.sum() < at_start.sum() < 32, "the case shows nothing"
    assert (early[survivors] - usual[survivors]).abs().max() <= 1e-6
    assert torch.equal(survivors, right(network, usual, labels) & at_start)
    assert (early - images).abs().max() <= 0.012 + 1e-6


def test_active_only_stops_when_nobody_is_left() -> None:
    network, (images, _) = toy_network(), batch()
    labels = (own_labels(network, images) + 1) % CLASSES
    calls = []
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    settings = {"epsilon": EPSILON, "step_size": STEP, "steps": 9, "restarts": 3, "active_only": True}
    found = pgd(network, images, labels, generator=drawn_from(0), **settings)
    hook.remove()
    assert len(calls) <= 4
    assert not right(network, found, labels).any()


# ---- leaves no trace -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_leaves_no_trace(loss: str) -> None:
    network, (images, labels) = toy_network(), batch()
    mixed_modes(network)
    before, pixels = everything_about(network), images.clone()
    targets = targets_for(loss, labels)
    settings = {"epsilon": EPSILON, "step_size": STEP, "steps": 2, "loss": loss, "restarts": 2}
    found = pgd(network, images, targets, generator=drawn_from(0), **settings)
    assert everything_about(network) == before
    assert torch.equal(images, pixels)
    assert not found.requires_grad
    assert found.grad_fn is None
    assert not images.requires_grad


def test_leaves_no_trace_after_an_exception() -> None:
    network, (images, labels) = toy_network(), batch()
    mixed_modes(network)
    before = everything_about(network)
    with pytest.raises(RuntimeError):
        fgsm(network, images[:, :2], labels, epsilon=EPSILON)
    assert everything_about(network) == before


def test_a_graph_of_the_caller_survives() -> None:
    """In training, an answer whose gradient is still to come is computed before the attack."""
    network, (images, labels) = toy_network(), batch()
    expected = torch.autograd.grad(F.cross_entropy(network(images), labels), list(network.parameters()))
    loss = F.cross_entropy(network(images), labels)
    fgsm(network, images, labels, epsilon=EPSILON)
    loss.backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_the_generator_decides() -> None:
    network, (images, labels) = toy_network(), batch()
    settings = {"epsilon": EPSILON, "step_size": STEP, "steps": 2}
    one, two, other = (pgd(network, images, labels, generator=drawn_from(seed), **settings) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


# ---- where it is called from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients_around_it(mode, loss: str) -> None:
    network, (images, labels) = toy_network(), batch()
    targets = targets_for(loss, labels)
    settings = {"epsilon": EPSILON, "step_size": STEP, "steps": 2, "loss": loss, "restarts": 2}
    expected = pgd(network, images, targets, generator=drawn_from(0), **settings)
    with mode():
        found = pgd(network, images.clone(), targets.clone(), generator=drawn_from(0), **settings)
    assert torch.equal(found, expected)
    assert not found.is_inference()


def test_works_under_autocast() -> None:
    """The network answers in bfloat16; images and steps are float32, so the ball is kept."""
    network, (images, labels) = toy_network(), batch()
    seen = []
    hook = network.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        found = pgd(network, images, labels, epsilon=EPSILON, step_size=STEP, steps=3, random_start=False)
    hook.remove()
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert found.dtype == torch.float32
    assert (found - images).abs().max() <= EPSILON + 1e-6
    full = pgd(network, images, labels, epsilon=EPSILON, step_size=STEP, steps=3, random_start=False)
    assert (found - full).abs().mean() < 0.2 * EPSILON


@pytest.mark.slow
def test_works_on_a_compiled_network(without_code_generation: None) -> None:
    network, (images, labels) = toy_network(), batch()
    settings = {"epsilon": EPSILON, "step_size": STEP, "steps": 3, "random_start": False}
    expected = pgd(network, images, labels, **settings)
    compiled = copy.deepcopy(network)
    compiled.compile()
    compiled.train()
    with torch.inference_mode():
        found = pgd(compiled, images, labels, **settings)
    assert (found - expected).abs().mean() < 1e-4
    assert all(module.training for module in compiled.modules())


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "cw"}, "valid are ce, margin, kl"),
        ({"steps": 0}, "make no attack"),
        ({"epsilon": -1.0}, "make no attack"),
        ({"generator": None}, "generator"),
        ({"random_start": False, "restarts": 2}, "random start"),
        ({"loss": "kl"}, "logits N x classes"),
    ],
)
def test_refuses_what_is_no_attack(settings: dict, message: str) -> None:
    network, (images, labels) = toy_network(), batch()
    usual = {"epsilon": EPSILON, "step_size": STEP, "steps": 1, "generator": drawn_from(0)}
    with pytest.raises(ValueError, match=message):
        pgd(network, images, labels, **usual | settings)


def test_refuses_images_of_whole_numbers_and_kl_without_labels() -> None:
    network, (images, labels) = toy_network(), batch()
    with pytest.raises(ValueError, match="uint8"):
        fgsm(network, (images * 255).byte(), labels, epsilon=EPSILON)
    settings = {"epsilon": EPSILON, "step_size": STEP, "steps": 1, "generator": drawn_from(0)}
    with pytest.raises(ValueError, match="active_only"):
        pgd(network, images, torch.randn(8, CLASSES), loss="kl", active_only=True, **settings)
