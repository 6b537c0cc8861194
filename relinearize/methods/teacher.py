"""Stage 0 of every method: the all-ReLU network, trained with cross-entropy; later it teaches."""

from torch import Tensor

from relinearize.methods.losses import classification_loss, percent_correct
from relinearize.methods.stage.stage import Stage


class Classifier(Stage):
    """Cross-entropy and SGD. Settings: conf/method/teacher/classifier.yaml."""

    name = "teacher"

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.network(images)
        return classification_loss(logits, labels), {"accuracy": percent_correct(logits, labels)}
