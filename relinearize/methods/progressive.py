"""The project's own search: down a ladder of budgets, scored anew at each rung, with a short training between.

From all ReLUs, at each rung: score every position of the network as it is now (scores.py), keep the best, positions
removed before among them; let what is removed go from ReLU to identity over a part of the rung,

    a = (1 - c) relu(z) + c z,   c = (1 - cos(pi min(1, t / (continuation T)))) / 2,

and train with cross-entropy and distillation in one cycle of the learning rate. The masks of all budgets between two
rungs are chosen where the walk passes them, from the weights of that moment; the last training is the fine-tuning's
(retrain.py). One rung without training is a one-shot mask.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError, check_choice, check_number
from relinearize.methods.correlated import removal_order
from relinearize.methods.distill import Distill
from relinearize.methods.losses import distillation_divergence
from relinearize.methods.scores import check_callable, damage_vectors, fisher
from relinearize.methods.stage.cycle import CycleStage
from relinearize.methods.stage.schedule import one_cycle
from relinearize.methods.stage.snapshot import Snapshot, count_columns, without_alphas
from relinearize.processes import sum_over_processes, take_from_first
from relinearize.relu.budget import kept_first, listed_budget, top_mask
from relinearize.relu.mask import Mask
from relinearize.relu.sites import slopes
from relinearize.robustness.attack import in_eval_mode

SELECTED = ("top", "correlated", "correlated_within_sites")


class Progressive(CycleStage, Distill):
    """The search stage of method=progressive. Settings in use: conf/method/search/progressive.yaml (the defaults here
    are former ones, which the keys of results rest on).

    Args:
        network: sites are SlopedReLU; starts from the teacher's weights.
        teacher: frozen all-ReLU network.
        budgets: counts at which to leave a snapshot; the walk ends at the smallest.
        on_snapshot: called with each Snapshot, largest budget first.
    """

    name = "search"
    least_epochs = 0
    SAVED = ("rung", "kept", "former", "accepted", "rejected", "lowest_checked")

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        budgets: Sequence[int],
        on_snapshot: Callable[[Snapshot], None],
        score: Callable[..., dict[str, Tensor]],
        rungs: int | Sequence[float] = 4,
        lowest: float = 0.026,
        rung_epochs: int = 3,
        continuation: float = 0.4,
        hysteresis: float = 0.0,
        selection: str = "top",
        diagonal: float = 0.5,
        score_images: int = 4096,
        exchanges: int = 0,
        exchange_share: float = 0.005,
        exchange_rate: float = 0.1,
        **settings: Any,
    ) -> None:
        alphas = slopes(inner_network(network))
        key = self.config_key
        check_callable(f"{key}.score", score)
        check_choice(f"{key}.selection", selection, SELECTED)
        check_number(f"{key}.lowest", lowest, "> 0", "< 1")
        self.take(">= 0", "<= 1", continuation=continuation, exchange_share=exchange_share)
        self.take(">= 0", hysteresis=hysteresis, diagonal=diagonal, exchange_rate=exchange_rate)
        self.take(">= 0", integer=True, rung_epochs=rung_epochs, exchanges=exchanges)
        self.take(">= 1", integer=True, score_images=score_images)
        exact = getattr(score, "keywords", {}).get("exact")
        if selection == "correlated" and (exact or getattr(score, "func", score) is not fisher):
            raise UserError(
                f"{key}.selection=correlated has its own measure of damage; give score=fisher (exact=false), which it "
                f"is made of, or {key}.selection=correlated_within_sites"
            )
        if exchanges and not rung_epochs:
            raise UserError(f"{key}.exchanges needs a trained rung; give {key}.rung_epochs >= 1")
        total = sum(alpha.numel() for alpha in alphas.values())
        counts = rung_counts(f"{key}.rungs", rungs, lowest, total)
        walked = [count for count in counts if count > min(budgets) or (exchanges and count == min(budgets))]
        epochs = len(walked) * (rung_epochs + exchanges)
        super().__init__(network, teacher, epochs=epochs, selection="last", **settings)
        self.counts, self.walked = counts, len(walked)
        self.pending = sorted(set(budgets), reverse=True)
        self.on_snapshot, self.score_of = on_snapshot, score
        self.choice = selection
        self.alphas = {name: alpha.requires_grad_(False) for name, alpha in alphas.items()}
        self.rung = 0  # rungs whose mask was chosen
        self.kept = {name: torch.ones_like(alpha, dtype=torch.bool) for name, alpha in self.alphas.items()}
        self.former = dict(self.kept)  # of the rung before
        self.slopes_settled = False  # they are those of `kept`; a resumed training sets them once more
        self.accepted: dict[str, Any] | None = None  # weights, mask and divergence before the exchange that is tried
        self.rejected = 0  # exchanges of this rung that were gone back on
        # Budgets from here on have had their snapshot; runs/search.py reads it in a checkpoint.
        self.lowest_checked = total + bool(exchanges)

    def check_selection(self, holdout: float) -> None:
        super().check_selection(holdout)
        if self.exchanges and not holdout:
            raise UserError(f"{self.config_key}.exchanges needs held-out images; give dataset.holdout (0.1, say)")

    def check_devices(self, devices: int) -> None:
        super().check_devices(devices)
        if devices > 1 and self.epochs and self.choice != "top":
            raise UserError(f"{self.config_key}.selection={self.choice} runs on one device; give trainer.devices=1")

    # ---- training ----------------------------------------------------------------------------------------------------

    @property
    def epochs_of_rung(self) -> int:
        return self.rung_epochs + self.exchanges

    def rate(self, epochs: float) -> float:
        """One cycle in each rung, then a constant rate for its exchanges."""
        epochs %= self.epochs_of_rung
        if epochs >= self.rung_epochs:
            return self.base_learning_rate * self.exchange_rate
        return one_cycle(self.base_learning_rate, epochs / self.rung_epochs, self.warmup)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.kept, self.former = self.on_device(self.kept), self.on_device(self.former)
        if not self.rung:
            self.next_rung([])

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        share = self.epochs_before(batch_index) % self.epochs_of_rung / self.rung_epochs
        progress = min(1.0, share / self.continuation) if self.continuation else 1.0
        if not self.slopes_settled:
            self.set_slopes(progress)
        self.slopes_settled = progress == 1
        return super().training_step(batch, batch_index)

    @torch.no_grad()
    def set_slopes(self, progress: float) -> None:
        """Slopes between those of the former mask (progress 0) and those of the present one (1)."""
        weight = (1 - math.cos(math.pi * progress)) / 2
        for name, alpha in self.alphas.items():
            former, kept = self.former[name].to(alpha), self.kept[name].to(alpha)
            alpha.copy_(kept if progress == 1 else torch.lerp(former, kept, weight))

    def epoch_end(self, row: dict[str, float]) -> None:
        row |= count_columns(Mask(self.kept).counts)
        done = int(row["epoch"]) % self.epochs_of_rung + 1
        if done >= self.rung_epochs and self.exchanges:
            row["exchange/divergence"] = self.settle_exchange()
            if done < self.epochs_of_rung:
                self.try_exchange()
        if done == self.epochs_of_rung:
            self.next_rung([*self.history, row])

    # ---- the ladder --------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Positions kept at the present rung."""
        return int(torch.stack([kept.sum() for kept in self.kept.values()]).sum())

    def next_rung(self, history: list[dict[str, float]]) -> None:
        """Score the network, leave the masks of the budgets down to the next rung, and choose that rung's."""
        last = self.rung == len(self.counts)
        rung = 0 if last else self.counts[self.rung]
        if self.exchanges and self.pending and self.pending[0] == self.count:  # this rung's own, after its exchanges
            scores = kept_first(self.position_scores(self.count), Mask(self.kept))
            self.leave_snapshot(self.pending.pop(0), Mask(self.kept), scores, history)
        lowest = rung + 1 if self.exchanges and self.rung < self.walked else rung
        passed = [budget for budget in self.pending if budget >= lowest]
        if passed or not last:
            scores = self.position_scores(rung)
        for budget in passed:
            self.leave_snapshot(budget, top_mask(scores, budget), scores, history)
        self.pending = self.pending[len(passed) :]
        if not last:
            self.former, self.kept = self.kept, self.on_device(top_mask(scores, rung))
            self.rung, self.accepted, self.rejected, self.slopes_settled = self.rung + 1, None, 0, False
            self.lowest_checked = rung + bool(self.exchanges)

    def on_device(self, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: mask[name].to(alpha.device) for name, alpha in self.alphas.items()}

    def position_scores(self, keep: int) -> dict[str, Tensor]:
        """Of the network as it is now, on the CPU; those of what is kept with their hysteresis."""
        images = min(self.score_images, 1024) if self.choice != "top" else self.score_images
        ((first, _),) = self.further_batches(self.rung, 1)
        for network in (self.network, *self._frozen):
            network.to(first.device)  # without any training, nothing has moved them there yet
        batches = self.further_batches(self.rung, images)
        found: dict[str, Tensor] = {}
        if self.choice != "correlated":
            found = self.score_of(self.network, batches, teacher=self._frozen[0], seed=self.seed + self.rung)
            # One's own may have any order, and be of this process's images alone.
            found = {name: found[name].to(first.device).contiguous() for name in self.alphas}
            take_from_first(found.values())
        if self.choice != "top":
            found = self.correlated_scores(found, self.further_batches(self.rung, images), keep)
        return {
            name: (score * (1 + self.hysteresis * self.kept[name].to(score))).cpu() for name, score in found.items()
        }

    def correlated_scores(
        self, scores: dict[str, Tensor], batches: Iterable[tuple[Tensor, Tensor]], keep: int
    ) -> dict[str, Tensor]:
        vectors, shapes = damage_vectors(self.network, batches, self.seed + self.rung)
        sizes = [math.prod(shape) for shape in shapes.values()]
        if self.choice == "correlated":
            parts = list(removal_order(vectors, keep or 1, self.diagonal).split(sizes))
        else:  # the scores of a site stay, so that its count does, and go to its positions in their new order
            parts = [removal_order(part, 1, self.diagonal) for part in vectors.split(sizes, dim=1)]
            for part, score in zip(parts, scores.values(), strict=True):
                part[part.argsort(stable=True)] = score.flatten().sort().values.to(part)
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def leave_snapshot(
        self, budget: int, mask: Mask, scores: dict[str, Tensor] | None, history: list[dict[str, float]]
    ) -> None:
        self._count_seconds()
        weights = without_alphas(self.weights(), self.alphas)
        moment = {"epoch": float(len(history)), **count_columns(mask.counts)}
        trained = len(history) >= min(self.rung, self.walked) * self.epochs_of_rung  # else a callback ended it
        self.on_snapshot(Snapshot(budget, mask, weights, trained, self.seconds, [*history, moment], scores))

    def finish(self) -> list[int]:
        """After the fit: without training, all that a fit would have done. No budget is left, hence []."""
        self._segment_started = time.monotonic()
        while self.pending:
            self.next_rung(list(self.history))
            self.set_slopes(1.0)
        return []

    # ---- exchanges ---------------------------------------------------------------------------------------------------

    def try_exchange(self) -> None:
        """Linearize the kept positions of least score and restore as many of the others of largest score."""
        scores = self.position_scores(self.count)
        number = max(1, round(self.exchange_share * self.count / 2**self.rejected))
        number = min(number, self.count, sum(kept.numel() for kept in self.kept.values()) - self.count)
        kept = {name: mask.cpu() for name, mask in self.kept.items()}
        of_kept = {name: score.masked_fill(~kept[name], -torch.inf) for name, score in scores.items()}
        of_others = {name: score.masked_fill(kept[name], -torch.inf) for name, score in scores.items()}
        stay, restored = top_mask(of_kept, self.count - number), top_mask(of_others, number)
        self.kept = self.former = self.on_device({name: stay[name] | restored[name] for name in stay})
        self.slopes_settled = False

    def settle_exchange(self) -> float:
        """Keep what the last exchange has led to if it is better than before, else go back. Returns the divergence."""
        divergence = self.divergence()
        if self.accepted is None or divergence < self.accepted["divergence"]:
            state = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
            self.accepted = {"divergence": divergence, "network": state, "kept": self.kept}
        else:
            self.rejected += 1
            self.network.load_state_dict(self.accepted["network"])
            self.kept = self.former = self.accepted["kept"]
        return divergence

    @torch.no_grad()
    def divergence(self) -> float:
        """Mean KL(teacher || network) over the held-out images."""
        total, seen = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        with in_eval_mode(self.network):
            for images, _ in self.validation_loader:
                total += distillation_divergence(self.network(images), self._frozen[0](images), 1.0) * len(images)
                seen += len(images)
        sum_over_processes([total, seen])
        return float(total / seen)


def rung_counts(key: str, rungs: int | Sequence[float | int | str], lowest: float, total: int) -> list[int]:
    """ReLUs at each rung, from the largest on. Raises UserError that names `key`, where `rungs` stands."""
    if isinstance(rungs, Sequence) and not isinstance(rungs, str) and rungs:
        if any(rung == 1 and not isinstance(rung, float) for rung in rungs):  # in keys it is 1.0, which is all
            raise UserError(f"{key}: the smallest count is 2, below which masks need no rung; 1.0 is all ReLUs")
        counts = {listed_budget(key, rung, total) for rung in rungs}
        return sorted(counts - {total}, reverse=True)
    if type(rungs) is not int or rungs < 1:
        raise UserError(f"{key}={rungs}: must be an integer >= 1, or a list of fractions and counts of ReLUs")
    return [max(1, round(lowest ** (number / rungs) * total)) for number in range(1, rungs + 1)]
