"""ReLUPruner (AAAI 2026): fewer and fewer ReLUs, those of largest first-order damage, while the network trains.

Every training step adds its batch to the scores of all positions (scores.ReLUPrunerMeans). Every `mask_every` steps the
whole mask is replaced by the positions of largest score in the whole network, as many as the schedule says:

    kept ratio of epoch e:  rho + (1 - rho) (1 + cos(pi p^1.5)) / 2,   p = (e - start) / (end - start)

with rho the budget's; 1 before `start`, rho from `end` on, where masks are replaced half as often.
"""

import math
from typing import Any

from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.methods.masked_search import MaskedSearch
from relinearize.methods.scores import ReLUPrunerMeans
from relinearize.methods.senet.site_outputs import SiteOutputs
from relinearize.relu.budget import top_mask
from relinearize.relu.sites import site_shapes

POWER = 1.5  # of the progress, as in the released code


def kept_ratio(target: float, epoch: float, start: float, end: float) -> float:
    """The share of the ReLUs that stay in `epoch`; `target` from the epoch `end` on."""
    if epoch < start:
        return 1.0
    if epoch >= end:
        return target
    progress = ((epoch - start) / (end - start)) ** POWER
    return target + (1 - target) * (1 + math.cos(math.pi * progress)) / 2


class ReLUPruner(MaskedSearch):
    """The search stage of ReLUPruner; see MaskedSearch. Settings: conf/method/search/relupruner.yaml; ReLUPrunerMeans.

    A budget that the masks have not come down to by the end is met by projection (Snapshot.reached is False).
    """

    hooked = True  # hooks look at the sites
    SAVED = (*MaskedSearch.SAVED, "means.means", "means.shares")

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        ramp_start: float = 0.0333,
        ramp_end: float = 0.6133,
        mask_every: int = 100,
        decay: float = 0.95,
        layer_weights: bool = True,
        second_order: bool | str = False,
        start: str = "teacher",
        **settings: Any,
    ) -> None:
        super().__init__(network, teacher, **settings)
        self.take(">= 0", "< 1", ramp_start=ramp_start)
        self.take(f"> {ramp_start}", "<= 1", ramp_end=ramp_end)
        self.take(">= 1", integer=True, mask_every=mask_every)
        self.take_one_of(("teacher", "scratch"), start=start)
        names = list(site_shapes(inner_network(network)))
        self.means = ReLUPrunerMeans(f"{self.config_key}.", names, decay, layer_weights, second_order)
        self.outputs = SiteOutputs(network, names, take=self.look)

    def look(self, name: str, z: Tensor, output: Tensor) -> None:
        """In the forward pass of a step: have the scores learn this batch when its gradient is there.

        Lightning divides the loss by the batches of a step, the scores are of the whole loss.
        """
        z = z.detach()
        output.register_hook(lambda g: self.means.add(name, z, g * self.batches_of_step))

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with self.outputs.watching():
            return super().loss(images, labels)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.means.to(self.device)

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        epoch, _ = self.position
        start, end = self.ramp_start * self.epochs, self.ramp_end * self.epochs
        every = self.mask_every if epoch < end else 2 * self.mask_every
        first = batch_index % self.batches_of_step == 0
        if epoch >= start and first and self.global_step and self.global_step % every == 0:
            ratio = kept_ratio(self.budget / self.mask.total, epoch, start, end)
            self.choose(max(self.budget, int(ratio * self.mask.total)))
        return super().training_step(batch, batch_index)

    def choose(self, count: int) -> None:
        """Keep the `count` positions of largest score; linear ones may come back."""
        self.means.average_over_processes()
        self.put_on(top_mask(self.means.scores(), count))

    def segment_end(self, last_of_epoch: bool) -> None:
        self.means.average_over_processes()
        if self.current_epoch + 1 == self.epochs * self.segments and self.mask.count != self.budget:
            self.reached = False
            self.choose(self.budget)

    def position_scores(self) -> dict[str, Tensor]:
        return self.means.scores()
