"""Stages whose learning rate follows cycles, step by step: a short linear warm-up, then cosine to 0."""

from typing import Any

from torch import Tensor, nn, optim

from relinearize.methods.stage.schedule import one_cycle, sgd
from relinearize.methods.stage.stage import Stage


class CycleStage(Stage):
    """SGD with Nesterov momentum under `one_cycle` over all epochs; a subclass may divide them into several cycles.

    Settings: conf/method/finetune/retrain.yaml.
    """

    UNUSED = ("schedule", "milestones", "gamma")

    def __init__(self, network: nn.Module, *arguments: Any, warmup: float = 0.05, **stage_settings: Any) -> None:
        super().__init__(network, *arguments, **stage_settings)
        self.take(">= 0", "< 1", warmup=warmup)

    def rate(self, epochs: float) -> float:
        """The learning rate after so many epochs, a fraction among them."""
        return one_cycle(self.base_learning_rate, epochs / self.epochs, self.warmup)

    def configure_optimizers(self) -> optim.Optimizer:
        learning = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return sgd(learning, self.base_learning_rate, self.momentum, self.weight_decay, nesterov=self.momentum > 0)

    def set_learning_rate(self, epoch: int) -> None:
        """Nothing: every step sets its own."""

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        for group in self.optimizers().param_groups:
            group["lr"] = self.rate(self.epochs_before(batch_index))
        return super().training_step(batch, batch_index)
