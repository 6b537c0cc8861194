"""Sums over the images of an epoch that stay on the device until a segment ends: no synchronisation in the loop."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from relinearize.processes import (
    minimum_over_processes,
    process_rank,
    sum_in_first,
    sum_over_processes,
    zero_unless_first,
)


class EpochSums:
    """Of one process: the sums of per-image means, the images seen, and the segment's first step of a bad loss."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.seen = 0
        self.first_bad_step: Tensor | None = None

    def begin_segment(self, first_of_epoch: bool) -> None:
        if first_of_epoch:
            self.sums, self.seen = {}, 0
        self.first_bad_step = None

    @torch.no_grad()
    def add(self, means: Mapping[str, Tensor], images: int, step: int) -> None:
        """The `means` over the `images` of a step, their `loss` among them."""
        for key, value in means.items():
            weighted = value.float() * images
            self.sums[key] = self.sums[key] + weighted if key in self.sums else weighted
        self.seen += images
        bad = torch.where(torch.isfinite(means["loss"]), math.inf, float(step))
        self.first_bad_step = bad if self.first_bad_step is None else torch.minimum(self.first_bad_step, bad)

    def bad_step(self) -> int | None:
        """The first step of the segment whose loss was NaN or infinite in any process."""
        step = math.inf if self.first_bad_step is None else minimum_over_processes(self.first_bad_step).item()
        return int(step) if math.isfinite(step) else None

    def share(self, last_of_epoch: bool, device: torch.device) -> None:
        """Of several processes, the first has the sums of all; at the end of the epoch every one has them."""
        seen = torch.tensor(self.seen, device=device)
        (sum_over_processes if last_of_epoch else sum_in_first)([*self.sums.values(), seen])
        self.seen = int(seen)

    def means(self) -> dict[str, float]:
        """Over the epoch, once `share` has been called at its end."""
        return {key: value.item() / self.seen for key, value in self.sums.items()}

    def to(self, device: torch.device) -> None:
        self.sums = {key: value.to(device) for key, value in self.sums.items()}
        if self.first_bad_step is not None:
            self.first_bad_step = self.first_bad_step.to(device)

    def state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "seen": self.seen, "first_bad_step": self.first_bad_step}

    def load(self, state: Mapping[str, Any]) -> None:
        self.sums, self.seen = dict(state["sums"]), state["seen"] if process_rank() == 0 else 0
        zero_unless_first(self.sums.values())
        self.first_bad_step = state["first_bad_step"]
