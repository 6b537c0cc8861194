"""SNL's search written straight from the paper's formulas: what a careful but plain implementation looks like.

Eager, float32, N x C x H x W in its usual memory order; float slopes in y = alpha*relu(x) + (1 - alpha)*x, in the
teacher too; the teacher's logits are computed with gradients and not detached, as in the official code, so the
backward pass goes through the teacher as well; Adam one parameter after another.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from relinearize.relu.activation import MaskedReLU


class FormulaReLU(nn.Module):
    """alpha*relu(x) + (1 - alpha)*x, with alpha 1 x C x H x W, a parameter or a buffer."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * F.relu(x) + (1 - self.alpha) * x


def with_formulas(network: nn.Module) -> nn.Module:
    """A copy of a linearized `network` whose sites are FormulaReLU."""
    network = copy.deepcopy(network)
    for name, site in list(network.named_modules()):
        if isinstance(site, MaskedReLU):
            alpha = nn.Parameter(torch.ones_like(site.mask, dtype=torch.float32)[None])
            network.set_submodule(name, FormulaReLU(alpha))
    return network


class NaiveSearch:
    """One SNL search step, in parts that can be timed. `network`: linearized, takes normalised images."""

    def __init__(self, network: nn.Module, lasso: float = 1e-5, temperature: float = 4.0) -> None:
        self.student = with_formulas(network).train()
        self.teacher = with_formulas(network).eval()
        for module in self.teacher.modules():
            if isinstance(module, FormulaReLU):
                module.alpha.requires_grad_(False)
        self.alphas = [module.alpha for module in self.student.modules() if isinstance(module, FormulaReLU)]
        self.lasso, self.temperature = lasso, temperature
        self.optimizer = optim.Adam(self.student.parameters(), lr=1e-3, foreach=False, fused=False)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        temperature = self.temperature
        teacher_logits = self.teacher(images)
        logits = self.student(images)
        loss = F.cross_entropy(logits, labels)
        loss = loss + temperature**2 * F.kl_div(
            F.log_softmax(logits / temperature, dim=1),
            F.softmax(teacher_logits / temperature, dim=1),
            reduction="batchmean",
        )
        for alpha in self.alphas:
            loss = loss + self.lasso * torch.norm(alpha, p=1)
        return loss

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(images, labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
