"""A multiplier for each class, which grows while the class is worse off than all images together.

Linearization costs some classes more than others (Das et al., ICML 2024). The mitigation: add the violations
v_c = max(0, L_c - L) to the loss, L_c the cross-entropy of class c and L that of all, times multipliers gamma_c, which
start at 0 and grow by mu v_c after every epoch (a Lagrangian dual ascent). The paper's text was not at hand: that it is
the cross-entropy, and that only classes above the mean count, is our reading (*unverified*).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from relinearize.processes import sum_in_first, sum_over_processes, zero_unless_first


class ClassMultipliers:
    """`rate`: mu. `state`: 3 x classes, the multipliers, and of this epoch summed losses and images; None at first."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.state: Tensor | None = None

    def penalty(self, logits: Tensor, labels: Tensor) -> Tensor:
        """sum_c gamma_c v_c of one batch (logits N x classes, int64 labels N)."""
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        if self.state is None:
            self.state = losses.new_zeros(3, logits.shape[1], dtype=torch.float64)
        self.state = self.state.to(losses.device)  # a checkpoint's is on the CPU
        sums = losses.new_zeros(2, logits.shape[1]).index_add(1, labels, torch.stack([losses, torch.ones_like(losses)]))
        self.state[1:] += sums.detach()
        return (self.state[0].float() * _violations(sums)).sum()

    def share(self, last_of_epoch: bool) -> None:
        """Of several processes, the first has the sums of all; at the end of the epoch the multipliers grow by them."""
        sums = self.state[1:]
        (sum_over_processes if last_of_epoch else sum_in_first)([sums])
        if last_of_epoch:
            self.state[0] += self.rate * _violations(sums)
            sums.zero_()

    def load(self, state: Tensor | None) -> None:
        self.state = state
        if state is not None:
            zero_unless_first([state[1:]])


def _violations(sums: Tensor) -> Tensor:
    """v_c of 2 x classes: summed cross-entropies, and images. 0 for a class without images."""
    losses, images = sums
    mean = losses / images.clamp(min=1)
    return (mean - losses.sum() / images.sum()).clamp(min=0) * (images > 0)
