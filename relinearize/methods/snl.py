"""SNL, Selective Network Linearization (Cho et al., ICML 2022): learn which ReLUs to keep with a lasso on their slopes.

Every ReLU becomes y = alpha * relu(x) + (1 - alpha) * x with one alpha per position, starting at 1. Weights and alphas
are trained jointly (Algorithm 1) on

    L = CE(student, y) + T^2 KL(softmax(teacher / T) || softmax(student / T)) + lambda * sum ||alpha||_1

where lambda grows by the factor kappa after each epoch in which the number of positions with alpha > epsilon is not
below the lowest so far. The search ends when that number has reached the budget. The search trajectory does not depend
on where it ends, so one search serves every budget that it passes: it leaves a snapshot (weights, mask) at each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from relinearize.backbones.adapter import inner_network
from relinearize.methods.distill import Distill
from relinearize.methods.scores import slope
from relinearize.methods.stage.schedule import adam
from relinearize.methods.stage.snapshot import Snapshot, count_columns, without_alphas
from relinearize.relu.budget import top_mask
from relinearize.relu.mask import Mask
from relinearize.relu.sites import slopes


def lasso_penalty(alphas: Iterable[Tensor]) -> Tensor:
    """sum ||alpha||_1 over all sites: a plain sum over positions, no mean."""
    return torch.stack([alpha.abs().sum() for alpha in alphas]).sum()


def kept_counts(alphas: Mapping[str, Tensor], threshold: float) -> dict[str, int]:
    """Site -> positions with alpha > threshold; a negative alpha is linear (papers' epsilon)."""
    counts = torch.stack([(alpha > threshold).sum() for alpha in alphas.values()])
    return dict(zip(alphas, counts.tolist(), strict=True))


def next_lasso(lasso: float, count: int, lowest: int, epoch: int, growth: float, patience_epochs: int) -> float:
    """lambda after `epoch` (from 0): times `growth` (kappa) where the count is not below the lowest so far.

    The official code compares with the lowest count ever, and not before epoch index `patience_epochs` (5).
    """
    return lasso if count < lowest or epoch < patience_epochs else lasso * growth


class SNLSearch(Distill):
    """The search stage of SNL. Settings: conf/method/search/snl.yaml.

    Args:
        network: sites are SlopedReLU; starts from the teacher's weights.
        teacher: frozen all-ReLU network.
        budgets: counts at which to leave a snapshot; the search ends at the smallest.
        on_snapshot: called with each Snapshot, largest budget first.
    """

    name = "search"
    least_epochs = 1
    segments_key = "checks_per_epoch"
    UNUSED = ("momentum", "weight_decay")  # of Adam
    SAVED = ("lasso", "lowest", "lowest_checked", "count", "kept", "segments_done")

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        budgets: Sequence[int],
        on_snapshot: Callable[[Snapshot], None],
        lasso: float = 1e-5,
        lasso_growth: float = 1.1,
        threshold: float = 1e-2,
        patience_epochs: int = 5,
        alpha_learning_rate: float | None = None,
        checks_per_epoch: int = 8,
        paper_parity: bool = False,
        **stage_settings: Any,
    ) -> None:
        segments = 1 if paper_parity else checks_per_epoch
        super().__init__(network, teacher, segments=segments, selection="last", **stage_settings)
        self.take("> 0", lasso=lasso)
        self.take(">= 0", threshold=threshold, patience_epochs=patience_epochs)
        self.take(">= 1", lasso_growth=lasso_growth)
        self.take("> 0", optional=True, alpha_learning_rate=alpha_learning_rate)
        self.take_one_of((True, False), paper_parity=paper_parity)
        self.pending = sorted(set(budgets), reverse=True)
        self.on_snapshot = on_snapshot
        self.alphas = slopes(inner_network(network))
        self.kept = {name: alpha.numel() for name, alpha in self.alphas.items()}
        self.count = self.lowest = sum(self.kept.values())
        self.lowest_checked = self.count  # over all checks; `lowest` is over epoch ends and drives lambda
        self.segments_done = 0

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(images, labels)
        return loss + self.lasso * lasso_penalty(self.alphas.values()), metrics

    def configure_optimizers(self) -> optim.Optimizer:
        """Adam on weights and alphas alike (the paper's recipe)."""
        return adam(self.network, self.alphas.values(), self.base_learning_rate, self.alpha_learning_rate)

    @property
    def fewest_epochs(self) -> int:
        return min(1, self.epochs)  # it ends when the budgets are reached

    def segment_end(self, last_of_epoch: bool) -> None:
        self.kept = kept_counts(self.alphas, self.threshold)
        self.count = sum(self.kept.values())
        self.lowest_checked = min(self.lowest_checked, self.count)
        self.segments_done = self.current_epoch + 1
        epoch, _ = self.position
        if last_of_epoch:
            self.lasso_of_epoch = self.lasso
            self.lasso = next_lasso(self.lasso, self.count, self.lowest, epoch, self.lasso_growth, self.patience_epochs)
            self.lowest = min(self.lowest, self.count)
        while self.pending and self.count <= self.pending[0]:
            self._leave_snapshot(self.pending.pop(0))
        if not self.pending:
            self.trainer.should_stop = True

    def finish(self) -> list[int]:
        """After the fit: budgets that the epochs did not reach get the projection of the last state; returns them."""
        unreached, self.pending = self.pending, []
        for budget in unreached:
            self._leave_snapshot(budget)
        return unreached

    def epoch_end(self, row: dict[str, float]) -> None:
        row |= {**count_columns(self.kept), "lasso": self.lasso_of_epoch}

    def _leave_snapshot(self, budget: int) -> None:
        reached = self.count <= budget
        alphas = {name: alpha.cpu().clone() for name, alpha in slope(self.network).items()}
        if self.paper_parity and reached:
            mask = Mask({name: alpha > self.threshold for name, alpha in alphas.items()})
        else:
            mask = top_mask(alphas, budget)
        weights = without_alphas(self.weights(), self.alphas)
        moment = {"epoch": self.segments_done / self.segments, "lasso": self.lasso, **count_columns(self.kept)}
        self.on_snapshot(Snapshot(budget, mask, weights, reached, self.seconds, [*self.history, moment], alphas))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["search"]["left"] = len(self.pending)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """One that stopped at its lowest budget goes on to one below; one that a callback has stopped does not."""
        super().on_load_checkpoint(checkpoint)
        self._stopped = self._stopped and not (self.pending and not checkpoint["search"].get("left"))
