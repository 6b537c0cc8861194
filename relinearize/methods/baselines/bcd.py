"""Block coordinate descent (arXiv 2511.11781): from another search's mask down to the budget, a block at a time.

The network starts with the mask and the weights of another search (SNL's), at `first_factor` times the budget B, and is
trained for a while. Then, until exactly B positions are kept: draw K kept positions at random and measure the accuracy
on training images as if they were linear; the first of at most R draws that costs no more than `tolerance` goes, else
the one that costs least; train again where it cost more than that, or always. Swaps, which the paper has not, follow: K
kept for K linear positions, if a draw raises the accuracy.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.data.order import seeded_generator
from relinearize.errors import UserError, check_choice, check_number
from relinearize.methods.losses import accuracy
from relinearize.methods.masked_search import MaskedSearch
from relinearize.relu.mask import Mask


class BCD(MaskedSearch):
    """The search stage of block coordinate descent. Settings: conf/method/search/bcd.yaml.

    Args:
        network: with the mask and the weights that it starts from; see MaskedSearch.
        teacher, budget: see MaskedSearch.
        first: scores of all positions by the search that made the first mask. (In the config: that search.)
        first_factor: read by runs/request.py.
    """

    SAVED = (*MaskedSearch.SAVED, "round", "due")

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        budget: int,
        first: Mapping[str, Tensor],
        first_factor: float = 1.5,
        block: float = 100,
        draws: int = 50,
        tolerance: float = 0.3,
        candidates: float = 1.0,
        train: str = "needed",
        block_epochs: int = 20,
        accuracy_images: int | None = None,
        swaps: int = 0,
        **settings: Any,
    ) -> None:
        self.take(">= 1", integer=True, draws=draws)
        check_number(f"{self.config_key}.block_epochs", block_epochs, ">= 1", integer=True)
        check_number(f"{self.config_key}.swaps", swaps, ">= 0", integer=True)
        self.take(">= 0", tolerance=tolerance)
        self.take("> 0", "<= 1", candidates=candidates)
        check_choice(f"{self.config_key}.train", train, ("needed", "always"))
        check_number(f"{self.config_key}.block", block, "> 0")
        if isinstance(block, float) and block > 1 and not block.is_integer():
            raise UserError(f"{self.config_key}.block={block}: must be an integer, or a share below 1")
        self.take(">= 1", integer=True, optional=True, accuracy_images=accuracy_images)
        going = Mask.of(inner_network(network)).count - budget
        if going < 0:
            raise UserError(
                f"{self.config_key}.first has left {budget + going:,} ReLUs, fewer than the {budget:,} asked"
            )
        self.block = max(1, math.ceil(block * going)) if block < 1 else int(block)
        self.rounds = math.ceil(going / self.block) + swaps
        super().__init__(network, teacher, budget=budget, epochs=(1 + self.rounds) * block_epochs, **settings)
        self.train_always, self.period = train == "always", block_epochs
        self.first = dict(first)
        self.round = 0  # blocks and swaps done
        self.due = False  # whether a training has ended and the rounds after it have not

    # ---- training ----------------------------------------------------------------------------------------------------

    @property
    def fewest_epochs(self) -> int:
        return self.epochs if self.train_always else self.period

    def epoch_end(self, row: dict[str, float]) -> None:
        super().epoch_end(row)
        row["block/round"] = self.round
        self.due = (int(row["epoch"]) + 1) % self.period == 0

    def on_train_start(self) -> None:
        super().on_train_start()
        self.between_epochs()  # of a run that was killed there

    def between_epochs(self) -> None:
        if self.due and self.rounds_until_training():
            self.trainer.should_stop = True

    # ---- blocks ------------------------------------------------------------------------------------------------------

    def rounds_until_training(self) -> bool:
        """Change the mask until a training is due. True: nothing is left to do."""
        while self.round < self.rounds:
            harmless = self.swap() if self.mask.count == self.budget else self.remove()
            self.round += 1
            if self.train_always or not harmless:
                self.due = False
                return False
            self.pause()
        self.due = False
        return True

    def remove(self) -> bool:
        """Linearize the first block within the tolerance, else the best. Returns whether it was within."""
        floor = self.train_accuracy(self.mask) - self.tolerance
        best, found = -1.0, self.mask
        for draw in range(self.draws):
            mask = self.drawn(draw, removed=min(self.block, self.mask.count - self.budget))
            value = self.train_accuracy(mask)
            if value > best:
                best, found = value, mask
            if value >= floor:
                break
        self.put_on(found)
        return best >= floor

    def swap(self) -> bool:
        """Exchange the block that raises the accuracy most, if any does. Returns True: no accuracy is lost."""
        best, found = self.train_accuracy(self.mask), self.mask
        number = min(self.block, self.mask.count, self.mask.total - self.mask.count)
        for draw in range(self.draws):
            mask = self.drawn(draw, removed=number, restored=number)
            value = self.train_accuracy(mask)
            if value > best:
                best, found = value, mask
        self.put_on(found)
        return True

    def drawn(self, draw: int, removed: int, restored: int = 0) -> Mask:
        """The mask without `removed` positions and with `restored` others, a function of seed, round and draw."""
        generator = seeded_generator("block", self.seed, self.round, draw)
        kept = torch.cat([mask.flatten() for mask in self.mask.values()])
        scores = torch.cat([self.first[name].flatten().cpu() for name in self.mask])
        changed = kept.clone()
        for state, number, order in ((True, removed, scores), (False, restored, -scores)):
            places = torch.nonzero(kept == state).squeeze(1)
            places = places[order[places].argsort(stable=True)]
            places = places[: max(number, round(self.candidates * len(places)))]
            changed[places[torch.randperm(len(places), generator=generator)[:number]]] = not state
        parts = changed.split([mask.numel() for mask in self.mask.values()])
        return Mask({name: part.view(mask.shape) for (name, mask), part in zip(self.mask.items(), parts, strict=True)})

    def train_accuracy(self, mask: Mask) -> float:
        """Percent of training images that the network has right under `mask`; the same images in a round."""
        mask.apply(inner_network(self.network))
        return accuracy(self.network, self.further_batches(self.round, self.accuracy_images), self.precision_name)

    def position_scores(self) -> Mapping[str, Tensor]:
        return self.first
