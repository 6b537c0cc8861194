"""The last stage: the mask is fixed and the weights are trained with cross-entropy and distillation.

SNL, Algorithm 1, last step: L = CE(student, y) + T^2 KL(softmax(teacher / T) || softmax(student / T)).
"""

from torch import Tensor, nn

from relinearize.methods.losses import check_weighting, student_losses
from relinearize.methods.stage import Stage


class Distill(Stage):
    """Fine-tunes a linearized `network` against a frozen `teacher`.

    Args:
        network: linearized; its masks do not change.
        teacher: pixels to logits; not trained, not saved.
        temperature: T of the distillation term.
        cross_entropy_weight, distillation_weight: of the two terms (both 1 in SNL).
        stage_settings: see Stage. SNL: 100 epochs, SGD at 1e-3 with cosine decay, weight decay 5e-4, batch 128.
    """

    name = "finetune"
    least_epochs = 0

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = 4.0,
        cross_entropy_weight: float = 1.0,
        distillation_weight: float = 1.0,
        **stage_settings,
    ) -> None:
        super().__init__(network, **stage_settings)
        check_weighting(self.config_key, temperature, cross_entropy_weight, distillation_weight)
        self._frozen = (teacher,)
        self.temperature = temperature
        self.cross_entropy_weight = cross_entropy_weight
        self.distillation_weight = distillation_weight

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        cross_entropy, divergence, metrics = student_losses(
            self.network, self._frozen[0], images, labels, self.temperature
        )
        return self.cross_entropy_weight * cross_entropy + self.distillation_weight * divergence, metrics
