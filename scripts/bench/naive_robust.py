"""RLNet's adversarial training written straight from its formulas: what a careful but plain implementation looks like.

Eager, float32, N x C x H x W in its usual memory order; two nn.BatchNorm2d where the network has one, chosen by an
index; masks as float tensors in m*relu(x) + (1 - m)*x; PGD on the network itself in eval mode, with autograd.grad for
the images alone.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from bench.naive import FormulaReLU
from relinearize.relu.activation import MaskedReLU

EPSILON, STEP, STEPS, TEMPERATURE = 8 / 255, 2 / 255, 7, 4.0


class DualBatchNorm(nn.Module):
    index = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[self.index](x)


def with_dual_norms(network: nn.Module, masked: bool) -> nn.Module:
    """A copy of a linearized `network` with two batch norms for each; sites are nn.ReLU unless `masked`."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, DualBatchNorm(module.num_features))
        elif isinstance(module, MaskedReLU):
            network.set_submodule(name, FormulaReLU(nn.Buffer(module.mask.float()[None])) if masked else nn.ReLU())
    return network


class NaiveRobust:
    """One step: the teacher's where `teacher` is None, else the student's of the mask search (without its mask update).

    `network`, `teacher`: from pixels to logits.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module | None = None) -> None:
        self.network = with_dual_norms(network, masked=teacher is not None).train()
        self.teacher = None if teacher is None else with_dual_norms(teacher, masked=False).eval()
        self.optimizer = optim.SGD(
            self.network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, foreach=False, fused=False
        )

    def on(self, index: int) -> nn.Module:
        for module in self.network.modules():
            if isinstance(module, DualBatchNorm):
                module.index = index
        return self.network

    def raised(self, logits: Tensor, labels: Tensor, wanted: Tensor | None) -> Tensor:
        if wanted is None:
            return F.cross_entropy(logits, labels, reduction="sum")
        found = F.log_softmax(logits / TEMPERATURE, dim=1)
        return F.kl_div(found, F.softmax(wanted / TEMPERATURE, dim=1), reduction="sum")

    def attack(self, images: Tensor, labels: Tensor, wanted: Tensor | None) -> Tensor:
        network = self.on(1).eval()
        adversarial = (images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
        for _ in range(STEPS):
            adversarial = adversarial.detach().requires_grad_()
            loss = self.raised(network(adversarial), labels, wanted)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = adversarial.detach() + STEP * gradient.sign()
            adversarial = torch.min(torch.max(adversarial, images - EPSILON), images + EPSILON).clamp(0, 1)
        network.train()
        return adversarial.detach()

    def term(self, images: Tensor, labels: Tensor, wanted: Tensor | None, index: int) -> Tensor:
        logits = self.on(index)(images)
        loss = F.cross_entropy(logits, labels)
        if wanted is None:
            return loss
        divergence = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, dim=1), F.softmax(wanted / TEMPERATURE, dim=1), reduction="batchmean"
        )
        return 0.5 * loss + 0.5 * TEMPERATURE**2 * divergence

    def step(self, images: Tensor, labels: Tensor, augmix_images: Tensor) -> Tensor:
        half = len(images) // 2
        clean, hit = slice(0, half), slice(half, len(images))
        wanted: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.teacher is not None:
            with torch.no_grad():
                wanted = (self.teacher(images[clean]), self.teacher(images[hit]))
        adversarial = self.attack(images[hit], labels[hit], wanted[1])
        loss = self.term(images[clean], labels[clean], wanted[0], 0)
        loss = loss + self.term(augmix_images[clean], labels[clean], wanted[0], 0)
        loss = (loss + self.term(adversarial, labels[hit], wanted[1], 1)) / 3
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()
