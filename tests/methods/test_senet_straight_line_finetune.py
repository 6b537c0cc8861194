"""SENet's fine-tuning against the formulas written out below, in float64: both forms, one and two steps.

The reference knows nothing of the project: its own forward pass (with batch statistics and running averages), its own
losses, its own SGD (reference.py). Sources: SENet (ICLR 2023), the official code's attention form and the paper's
activation vectors.
"""

import pytest
import reference
import torch
from reference import PRAM, compare, relu, state_of
from torch import nn

from relinearize.methods.frozen import frozen_copy
from relinearize.methods.senet.pram import PRAMDistill
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, named_sites, to_masked

IMAGES, SIZE, CLASSES = 6, 6, 3
RATE, DECAY, BETA = 0.02, 5e-4, 1000.0
GAMMA = {"attention": 0.1, "activations": 0.1}
ALPHA = {"attention": 0.5, "activations": 0.9}


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


def reference_forward(images, state, masks, train):
    """(logits, the three activated maps); a ReLU where the mask is 1, the identity where it is 0."""
    first = torch.conv2d(images, state["conv1.weight"], padding=1)
    first = relu(reference.norm(first, state, "bn1", train), masks[0])
    second = torch.conv2d(first, state["conv2.weight"], padding=1)
    second = relu(reference.norm(second, state, "bn2", train) + first, masks[1])
    third = torch.conv2d(second, state["conv3.weight"], stride=2)
    third = relu(reference.norm(third, state, "bn3", train), masks[2])
    return third.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"], [first, second, third]


def reference_terms(form, images, labels, state, masks, teacher_state):
    """Cross-entropy, distillation and PRAM of one batch, from probabilities and unfolded batch norms."""
    logits, maps = reference_forward(images, state, masks, train=True)
    ones = [torch.ones_like(mask) for mask in masks]
    with torch.no_grad():
        wanted, teacher_maps = reference_forward(images, teacher_state, ones, train=False)
    first = 1 if form == "attention" else 0  # compared are sites 2 and 3, the last of each map size; or all sites
    pram = PRAM[form](maps[first:], teacher_maps[first:])
    return reference.cross_entropy(logits, labels), reference.divergence(logits, wanted), pram


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
    state, teacher_state = state_of(student), state_of(teacher)

    stage = PRAMDistill(
        student, frozen_copy(teacher), form=form, sites="stages" if form == "attention" else "all",
        cross_entropy_weight=GAMMA[form], distillation_weight=ALPHA[form], pram_weight=BETA,
        epochs=1, batch_size=IMAGES, learning_rate=RATE, weight_decay=DECAY,
    )  # fmt: skip
    stage.train()
    optimizer = stage.configure_optimizers()
    sgd = reference.SGD(RATE, DECAY)
    for images, labels in batches:
        optimizer.zero_grad()
        loss, metrics = stage.loss(images, labels)
        loss.backward()
        optimizer.step()

        masks = list(mask.values())
        cross_entropy, divergence, pram = reference_terms(form, images, labels, state, masks, teacher_state)
        own_loss = GAMMA[form] * cross_entropy + ALPHA[form] * divergence + BETA * pram
        terms = {"cross_entropy": cross_entropy, "distillation": divergence, "pram": pram}
        for key, value in terms.items():
            assert metrics[key].item() == pytest.approx(value.item(), rel=1e-10), key
        assert loss.item() == pytest.approx(own_loss.item(), rel=1e-10)
        assert BETA * pram.item() > 0.01 * own_loss.item()  # the new term is at work
        sgd.step(state, own_loss)
    compare(student, state)
    assert Mask.of(student) == mask
