"""RLNet (CVPRW 2024; its official code), stage 0: the robust all-ReLU network.

    L = (CE_clean + CE_augmix + CE_adversarial) / 3

Two routes: the clean half of the batch and the AugMix views of the same images through batch norm "clean", the other
half, under PGD-7, through "adversarial". Three routes: a third of the batch each, through its own, as in the official
code's teacher (its later stages cannot run with three sets as released; see search.py for how they are read).
Every part is a forward pass of its own, so batch statistics are never taken over two of them together.
"""

from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.resnet import share_shortcut_norms
from relinearize.errors import UserError, check_choice
from relinearize.methods.losses import classification_loss, distillation_divergence, percent_correct
from relinearize.methods.rlnet.robust_training import RobustTraining, part_metrics


class RobustClassifier(RobustTraining):
    """Trains an all-ReLU network with 1, 2 or 3 routes on clean, AugMix and adversarial images.

    With `trades_weight` lambda, for one route, the loss is that of TRADES (Zhang et al., ICML 2019),

        L = CE_clean (or the mean with CE_augmix) + lambda * T^2 KL(softmax(clean / T) || softmax(adversarial / T))

    with gradients on both sides, both outputs in train mode. Settings: rlnet.yaml and rlnet_trades.yaml in
    conf/method/teacher.
    """

    name = "teacher"

    def __init__(
        self,
        network: nn.Module,
        *,
        trades_weight: float | None = None,
        trades_temperature: float = 1.0,
        shared_shortcut_norms: bool = False,
        **robust_settings: Any,
    ) -> None:
        key = self.config_key
        check_choice(f"{key}.shared_shortcut_norms", shared_shortcut_norms, (True, False))
        if shared_shortcut_norms:
            share_shortcut_norms(network)
        super().__init__(network, **robust_settings)
        self.take(">= 0", optional=True, trades_weight=trades_weight)
        self.take("> 0", trades_temperature=trades_temperature)
        if trades_weight is not None and (len(self.routes) > 1 or not {"clean", "adversarial"} <= set(self.part_names)):
            raise UserError(
                f"{key}.trades_weight={trades_weight} compares two outputs of one route; give method.routes=1 and "
                "weights to the parts clean and adversarial, or trades_weight=null"
            )
        if self.attack.loss == "kl" and trades_weight is None:
            raise UserError(f"{key}.attack.loss=kl needs {key}.trades_weight; valid without: ce, margin")
        weight = self.part_weights["adversarial"]
        if trades_weight is not None and weight != 1:
            raise UserError(
                f"{key}.part_weights.adversarial={weight}: TRADES' divergence has {key}.trades_weight; give 1 here"
            )

    def loss(
        self, images: Tensor, labels: Tensor, augmix_images: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        outputs, losses, metrics = {}, {}, {}
        parts = self.begin_step(len(labels))
        own = None
        for part in parts:
            if part.name == "adversarial" and self.attack.loss == "kl":
                own = self._own_logits(images) if self.attack_order == "first" else outputs["clean"].detach()
            shown = self.shown(part, images, labels, augmix_images, own, self.trades_temperature)
            with self.on_route(part):
                logits = self.network(shown)
            its_labels = labels[part.rows]
            cross_entropy = classification_loss(logits, its_labels)
            outputs[part.name], losses[part.name] = logits, cross_entropy
            accuracy = percent_correct(logits, its_labels)
            metrics |= part_metrics(part, {"cross_entropy": cross_entropy.detach(), "accuracy": accuracy})
        if self.trades_weight is None:
            return self.weighted(losses), metrics
        losses.pop("adversarial")
        divergence = distillation_divergence(outputs["adversarial"], outputs["clean"], self.trades_temperature)
        metrics["trades"] = divergence.detach()
        return self.weighted(losses) + self.trades_weight * divergence, metrics

    @torch.no_grad()
    def _own_logits(self, images: Tensor) -> Tensor:
        return self._attacked.network(images)
