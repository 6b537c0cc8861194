"""The last stage: the mask is fixed and the weights are trained with cross-entropy and distillation.

SNL, Algorithm 1, last step: L = CE(student, y) + T^2 KL(softmax(teacher / T) || softmax(student / T)).
"""

from typing import Any

import torch
from torch import Tensor, nn

from relinearize.errors import check_number
from relinearize.methods.class_multipliers import ClassMultipliers
from relinearize.methods.losses import logit_losses
from relinearize.methods.stage.stage import Stage


class Distill(Stage):
    """Fine-tunes a linearized `network` against a frozen `teacher`. Settings: conf/method/finetune/distill.yaml.

    Args:
        network: linearized; its masks do not change.
        teacher: pixels to logits; not trained, not saved.
    """

    name = "finetune"
    least_epochs = 0
    standardise = False  # see Retrain
    hooked = False  # whether hooks act in a step, which runs uncompiled then

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = 4.0,
        cross_entropy_weight: float = 1.0,
        distillation_weight: float = 1.0,
        class_multiplier_rate: float | None = None,
        **stage_settings,
    ) -> None:
        super().__init__(network, **stage_settings)
        self.take("> 0", temperature=temperature)
        self.take(">= 0", cross_entropy_weight=cross_entropy_weight, distillation_weight=distillation_weight)
        self._frozen = (teacher,)
        check_number(f"{self.config_key}.class_multiplier_rate", class_multiplier_rate, "> 0", optional=True)
        self.class_multipliers = None if class_multiplier_rate is None else ClassMultipliers(class_multiplier_rate)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            wanted = self._frozen[0](images)
        student = self.network.forward if self.hooked else self.network
        return self.logit_loss(student(images), wanted, labels)

    def logit_loss(self, logits: Tensor, wanted: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the student's logits against the teacher's, and its terms before their weights as metrics."""
        cross_entropy, divergence, metrics = logit_losses(logits, wanted, labels, self.temperature, self.standardise)
        loss = self.cross_entropy_weight * cross_entropy + self.distillation_weight * divergence
        if self.class_multipliers is not None:
            penalty = self.class_multipliers.penalty(logits, labels)
            loss, metrics = loss + penalty, {**metrics, "class_penalty": penalty.detach()}
        return loss, metrics

    def on_train_epoch_end(self) -> None:
        if self.class_multipliers is not None:
            self.class_multipliers.share(last_of_epoch=self.position[1] == self.segments - 1)
        super().on_train_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.class_multipliers is not None:
            checkpoint["class_multipliers"] = self.class_multipliers.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.class_multipliers is not None:
            self.class_multipliers.load(checkpoint["class_multipliers"])
