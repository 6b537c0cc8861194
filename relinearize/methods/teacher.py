"""Stage 0 of every method: the all-ReLU network, trained with cross-entropy; later it teaches."""

from torch import Tensor, optim

from relinearize.methods.losses import classification_loss
from relinearize.methods.schedule import sgd
from relinearize.methods.stage import Stage


class Classifier(Stage):
    """Cross-entropy and SGD. SNL: 160 epochs, rate .1, a tenth at 50 % and 75 %, weight decay 5e-4, batch 256."""

    name = "teacher"

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.network(images)
        loss = classification_loss(logits, labels)
        return loss, {"accuracy": 100 * (logits.detach().argmax(1) == labels).float().mean()}

    def configure_optimizers(self) -> optim.Optimizer:
        return sgd(self.network.parameters(), self.base_learning_rate, self.momentum, self.weight_decay)
