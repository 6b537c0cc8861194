"""Stage 0 of every method: the all-ReLU network, trained with cross-entropy; later it teaches."""

from torch import Tensor

from relinearize.methods.losses import classification_loss, percent_correct
from relinearize.methods.stage.stage import Stage


class Classifier(Stage):
    """Cross-entropy and SGD. SNL: 160 epochs, rate .1, a tenth at 50 % and 75 %, weight decay 5e-4, batch 256."""

    name = "teacher"

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.network(images)
        return classification_loss(logits, labels), {"accuracy": percent_correct(logits, labels)}
