"""RLNet (CVPRW 2024; its official code), stage 1: SENet's mask search on clean, AugMix and adversarial images.

    L = gamma * (CE_c + CE_aug + CE_adv) / 3 + alpha * (KL_c + KL_aug + KL_adv) / 3

with KL = T^2 KL(softmax(teacher / T) || softmax(student / T)). The soft labels of all three are the robust teacher's
outputs for the *clean* images of the same rows on route clean, and the attack leads away from them (in RSLAD's manner,
at temperature T). The mismatch that ranks the positions is that of the clean part, on route clean of both networks.

Which rows are which part: see batch_parts.py. With three routes the AugMix part goes through the student's route
augmix, and its soft labels are those of the same rows' clean images on the teacher's route clean. So has the official
code, which cannot be run with three sets as released: it builds networks that lack them. We do not follow it in
normalising AugMix images twice there. Of its modes (conf/method/search/rlnet.yaml) it knows `rslad` alone then.
"""

from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.routes import export_route
from relinearize.errors import UserError
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.rlnet.robust_training import RobustTraining, part_metrics
from relinearize.methods.senet.search import SENetSearch


class RLNetSearch(RobustTraining, SENetSearch):
    """The search stage of RLNet, for one budget.

    Args:
        network: with routes; sites are MaskedReLU.
        teacher: robust all-ReLU network with the same sites, with routes or without; its route clean is used, in a
            folded copy.
        settings: see SENetSearch (sensitivities, budget) and conf/method/search/rlnet.yaml.
    """

    attack_loss = "kl"
    masks_change = True

    def __init__(self, network: nn.Module, teacher: nn.Module, **settings: Any) -> None:
        if settings.get("paper_parity"):
            settings |= {"select_by": "clean", "attack_order": "last"}
        super().__init__(network, frozen_copy(export_route(teacher, "clean")), **settings)
        if "clean" not in self.part_names:
            raise UserError(f"{self.config_key}.part_weights.clean=0, but the search ranks positions by the clean part")

    def loss(
        self, images: Tensor, labels: Tensor, augmix_images: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        clean, *others = parts = self.begin_step(len(labels))
        with self.on_route(clean):
            logits, wanted = self.mismatch.logits(images[clean.rows])
        rest = images[clean.rows.stop :]  # the clean part begins the batch
        if len(rest):
            with torch.no_grad():
                wanted = torch.cat([wanted, self._frozen[0](rest)])
        outputs = [logits]
        for part in others:
            shown = self.shown(part, images, labels, augmix_images, wanted, self.temperature)
            with self.on_route(part):
                outputs.append(self.network(shown))
        losses, metrics = {}, {}
        for part, logits in zip(parts, outputs, strict=True):
            losses[part.name], found = self.logit_loss(logits, wanted[part.rows], labels[part.rows])
            metrics |= part_metrics(part, found)
        return self.weighted(losses), metrics
