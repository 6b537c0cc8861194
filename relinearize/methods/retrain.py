"""Retraining under a fixed mask at the teacher's learning rate, with averaged weights.

A mask wants other weights than the all-ReLU network's: small rates, as the papers' fine-tunings have them, leave
accuracy behind (Renda et al., ICLR 2020, found the same for pruned weights). So the rate starts high again and falls
to 0.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from relinearize.methods.distill import Distill
from relinearize.methods.stage.cycle import CycleStage
from relinearize.processes import average_batch_norms


class Retrain(CycleStage, Distill):
    """Trains a linearized network against a frozen teacher: CycleStage's schedule, the loss of Distill.

    An average of the weights is what is validated, chosen and left, with batch-norm statistics estimated anew.
    Settings: conf/method/finetune/retrain.yaml.
    """

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        average_decay: float | None = 0.999,
        norm_images: int = 2048,
        standardise: bool = False,
        **settings,
    ) -> None:
        super().__init__(network, teacher, **settings)
        self.take("> 0", "< 1", optional=True, average_decay=average_decay)
        self.take(">= 2", integer=True, norm_images=norm_images)
        self.take_one_of((True, False), standardise=standardise)
        self.average: AveragedModel | None = None
        if average_decay is not None and self.epochs:
            self.average = AveragedModel(network)
            self.average.requires_grad_(False)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.average is not None:
            self.average.to(self.device, memory_format=self.memory_format)
            self.average.n_averaged = self.average.n_averaged.cpu()  # a look at it must not wait for a GPU

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        # The weights that the step before left: a checkpoint between two steps needs no average of its own time.
        if self.average is not None and batch_index and not batch_index % self.batches_of_step:
            self.move_average()
        return super().training_step(batch, batch_index)

    def segment_end(self, last_of_epoch: bool) -> None:
        if self.average is None:
            return
        self.move_average()
        for average, buffer in zip(self.average.module.buffers(), self.network.buffers(), strict=True):
            average.copy_(buffer)
        self.estimate_norms(self.average, self.norm_images)
        average_batch_norms(self.average)

    @torch.no_grad()
    def move_average(self) -> None:
        """One step of the average. It forgets faster at its start, which a short training would never leave.

        AveragedModel's own update_parameters copies every buffer by itself, and waits for the GPU.
        """
        count = int(self.average.n_averaged)
        decay = min(self.average_decay, (1 + count) / (10 + count)) if count else 0.0
        averages, weights = list(self.average.module.parameters()), list(self.network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        self.average.n_averaged += 1

    @property
    def result_network(self) -> nn.Module:
        return self.network if self.average is None else self.average.module
