"""SENet's fine-tuning against the formulas written out below, in float64: both forms, one and two steps.

The reference knows nothing of the project: its own forward pass (with batch statistics and running averages), its own
losses, its own SGD. Sources: SENet (ICLR 2023), the official code's attention form and the paper's
activation vectors.
"""

import pytest
import torch
from torch import nn

from relinearize.methods.frozen import frozen_copy
from relinearize.methods.senet.pram import PRAMDistill
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, named_sites, to_masked

IMAGES, SIZE, CLASSES, TEMPERATURE = 6, 6, 3, 4.0
RATE, MOMENTUM, DECAY, BETA = 0.02, 0.9, 5e-4, 1000.0
GAMMA = {"attention": 0.1, "activations": 0.1}
ALPHA = {"attention": 0.5, "activations": 0.9}
TOLERANCE = 1e-10


class SmallNetwork(nn.Module):
    """Three times conv - batch norm - ReLU, the maps 6 x 6, 6 x 6 and 3 x 3; a skip around the second; mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.conv3, self.bn3, self.relu3 = nn.Conv2d(4, 5, 2, stride=2, bias=False), nn.BatchNorm2d(5), nn.ReLU()
        self.linear = nn.Linear(5, CLASSES)

    def forward(self, images):
        first = self.relu1(self.bn1(self.conv1(images)))
        second = self.relu2(self.bn2(self.conv2(first)) + first)
        return self.linear(self.relu3(self.bn3(self.conv3(second))).mean((2, 3)))


# ---- the reference -----------------------------------------------------------------------------------------------


def reference_norm(values, state, name, train):
    """Momentum 0.1; biased variance for the output, unbiased for the running average."""
    if train:
        mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False)
        count = values.numel() / values.shape[1]
        with torch.no_grad():
            state[f"{name}.running_mean"] = 0.9 * state[f"{name}.running_mean"] + 0.1 * mean
            state[f"{name}.running_var"] = 0.9 * state[f"{name}.running_var"] + 0.1 * variance * count / (count - 1)
    else:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scaled = (values - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
    return scaled * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def reference_forward(images, state, masks, train):
    """(logits, the three activated maps); a ReLU where the mask is 1, the identity where it is 0."""

    def activated(values, mask):
        return mask * values.clamp(min=0) + (1 - mask) * values

    first = torch.conv2d(images, state["conv1.weight"], padding=1)
    first = activated(reference_norm(first, state, "bn1", train), masks[0])
    second = torch.conv2d(first, state["conv2.weight"], padding=1)
    second = activated(reference_norm(second, state, "bn2", train) + first, masks[1])
    third = torch.conv2d(second, state["conv3.weight"], stride=2)
    third = activated(reference_norm(third, state, "bn3", train), masks[2])
    return third.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"], [first, second, third]


def reference_attention(student_maps, teacher_maps):
    """Sites 2 and 3 (the last of each map size): sum of the mean squared differences of the attention vectors."""
    total = 0.0
    for student, teacher in zip(student_maps[1:], teacher_maps[1:], strict=True):
        squares = 0.0
        for image in range(IMAGES):
            found = (student[image] ** 2).mean(0).reshape(-1)
            wanted = (teacher[image] ** 2).mean(0).reshape(-1)
            difference = found / (found**2).sum().sqrt() - wanted / (wanted**2).sum().sqrt()
            squares = squares + (difference**2).sum()
        total = total + squares / (IMAGES * student.shape[2] * student.shape[3])
    return total


def reference_activations(student_maps, teacher_maps):
    """All sites: half the sum of the batch means of |s/|s| - t/|t||."""
    total = 0.0
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        for image in range(IMAGES):
            found, wanted = student[image].reshape(-1), teacher[image].reshape(-1)
            difference = found / (found**2).sum().sqrt() - wanted / (wanted**2).sum().sqrt()
            total = total + (difference**2).sum().sqrt() / IMAGES
    return total / 2


PRAM = {"attention": reference_attention, "activations": reference_activations}


def reference_terms(form, images, labels, state, masks, teacher_state):
    """Cross-entropy, distillation and PRAM of one batch, from probabilities and unfolded batch norms."""
    logits, maps = reference_forward(images, state, masks, train=True)
    ones = [torch.ones_like(mask) for mask in masks]
    teacher_logits, teacher_maps = reference_forward(images, teacher_state, ones, train=False)
    cross_entropy = -torch.log(torch.softmax(logits, 1)[torch.arange(IMAGES), labels]).sum() / IMAGES
    wanted, found = torch.softmax(teacher_logits / TEMPERATURE, 1), torch.softmax(logits / TEMPERATURE, 1)
    divergence = TEMPERATURE**2 * (wanted * (wanted.log() - found.log())).sum() / IMAGES
    return cross_entropy, divergence, PRAM[form](maps, [teacher_map.detach() for teacher_map in teacher_maps])


# ---- the comparison ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("form", PRAM)
def test_steps_of_fine_tuning_equal_the_formulas(form, steps):
    torch.manual_seed(3)
    student, teacher = (linearize(SmallNetwork(), (2, SIZE, SIZE)).double() for _ in range(2))
    for norm in (teacher.bn1, teacher.bn2, teacher.bn3):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2.0)
    mask = Mask({name: torch.rand(site.mask.shape) < 0.4 for name, site in named_sites(student).items()})
    to_masked(student, mask)
    batches = [
        (torch.randn(IMAGES, 2, SIZE, SIZE, dtype=torch.float64), torch.randint(CLASSES, (IMAGES,)))
        for _ in range(steps)
    ]
    state = {key: value.detach().clone() for key, value in student.state_dict().items() if "tracked" not in key}
    trained = [key for key in state if "running" not in key]
    teacher_state = {key: value.detach().clone() for key, value in teacher.state_dict().items()}

    stage = PRAMDistill(
        student, frozen_copy(teacher), form=form, sites="stages" if form == "attention" else "all",
        temperature=TEMPERATURE, cross_entropy_weight=GAMMA[form], distillation_weight=ALPHA[form], pram_weight=BETA,
        epochs=1, batch_size=IMAGES, learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY,
    )  # fmt: skip
    stage.train()
    optimizer = stage.configure_optimizers()
    velocity = {}
    for images, labels in batches:
        optimizer.zero_grad()
        loss, metrics = stage.loss(images, labels)
        loss.backward()
        optimizer.step()

        for key in trained:
            state[key].requires_grad_()
        masks = [kept.double() for kept in mask.values()]
        cross_entropy, divergence, pram = reference_terms(form, images, labels, state, masks, teacher_state)
        own_loss = GAMMA[form] * cross_entropy + ALPHA[form] * divergence + BETA * pram
        terms = {"cross_entropy": cross_entropy, "distillation": divergence, "pram": pram}
        for key, value in terms.items():
            assert metrics[key].item() == pytest.approx(value.item(), rel=1e-10), key
        assert loss.item() == pytest.approx(own_loss.item(), rel=1e-10)
        assert BETA * pram.item() > 0.01 * own_loss.item()  # the new term is at work
        gradients = torch.autograd.grad(own_loss, [state[key] for key in trained])
        for key, gradient in zip(trained, gradients, strict=True):
            gradient = gradient + DECAY * state[key].detach()
            velocity[key] = MOMENTUM * velocity[key] + gradient if key in velocity else gradient
            state[key] = (state[key] - RATE * velocity[key]).detach()

    own = {key: value for key, value in student.state_dict().items() if "tracked" not in key}
    assert own.keys() == state.keys()
    for key, value in state.items():
        torch.testing.assert_close(own[key], value.detach(), rtol=TOLERANCE, atol=TOLERANCE, msg=key)
    assert Mask.of(student) == mask
