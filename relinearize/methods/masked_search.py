"""What searches for one budget share that train under a mask and change it on the way."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.methods.distill import Distill
from relinearize.methods.stage.snapshot import Snapshot, count_columns
from relinearize.relu.budget import kept_first, top_mask
from relinearize.relu.mask import Mask


class MaskedSearch(Distill):
    """Trains `network` with the loss of Distill, under a mask that a subclass replaces by `put_on`.

    Args:
        network: sites are MaskedReLU; its mask is the first one.
        teacher: frozen all-ReLU network.
        budget: ReLUs that stay. Where the mask has more when the training ends (a callback may have ended it), it is
            projected.
    """

    name = "search"
    least_epochs = 1
    one_budget = True  # see runs/search.py
    FIXED: Mapping[str, Any] = {"selection": "last"}  # settings that nobody chooses
    SAVED: tuple[str, ...] = ("reached",)

    def __init__(self, network: nn.Module, teacher: nn.Module, *, budget: int, **settings: Any) -> None:
        super().__init__(network, teacher, **self.FIXED, **settings)
        self.budget = budget
        self._mask = Mask.of(inner_network(network))
        self.reached = True

    @property
    def mask(self) -> Mask:
        """What is trained under."""
        return self._mask

    def put_on(self, mask: Mask) -> None:
        """Train under `mask` from now on."""
        mask.apply(inner_network(self.network))
        self._mask = mask

    def position_scores(self) -> Mapping[str, Tensor]:
        """Of every position; an allocation that culls sites chooses again by them."""
        return {name: torch.zeros(kept.shape) for name, kept in self.mask.items()}

    def epoch_end(self, row: dict[str, float]) -> None:
        row |= count_columns(self.mask.counts)

    def snapshot(self) -> Snapshot:
        found = self.position_scores()  # in any order, as where they come from a file
        scores = kept_first({name: found[name].cpu() for name in self.mask}, self.mask)
        if self.mask.count > self.budget:
            self.put_on(top_mask(scores, self.budget))
            self.reached = False
        return Snapshot(self.budget, self.mask, self.weights(), self.reached, self.seconds, list(self.history), scores)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["search"]["mask"] = dict(self.mask)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.put_on(Mask(checkpoint["search"]["mask"]))
