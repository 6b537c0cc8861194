"""RLNet (CVPRW 2024; its official code), stage 2: robust fine-tuning under a fixed mask.

    L = gamma * (CE_c + CE_aug + CE_adv) / 3 + alpha * (KL_c + KL_aug + KL_adv) / 3 + beta * (AT_c + AT_aug) / 2

The first two as in the search (search.py). AT compares the sites of student and teacher on the very images that
the student is shown, both on the part's route: clean images on route clean, AugMix views on route clean (three routes:
augmix), and, where it has a weight, the student's adversarial images on route adversarial (then the mean of three).

The official code's modes in these weights: conf/method/finetune/rlnet.yaml. With three sets of batch norms it knows
rslad and rslad+attn alone; here each part is compared on its own route then, too.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.routes import export_route, routes_of
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.rlnet.batch_parts import Part, checked_weights, route_of
from relinearize.methods.rlnet.robust_training import RobustTraining, part_metrics
from relinearize.methods.senet.pram import PRAMDistill, activation_mismatch
from relinearize.methods.senet.site_outputs import Outputs, SiteOutputs

PRAM_PART_WEIGHTS = {"clean": 1.0, "augmix": 1.0, "adversarial": 0.0}


class RobustDistill(RobustTraining, PRAMDistill):
    """Fine-tunes a linearized `network` with routes against a robust teacher.

    Args:
        network: linearized, with routes; its masks do not change.
        teacher: robust all-ReLU network, with routes or without (then its only one serves for all). Folded copies of
            the routes that are needed are used.

    Settings: conf/method/finetune/rlnet.yaml.
    """

    attack_loss = "kl"

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        pram_part_weights: Mapping[str, float] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(network, frozen_copy(export_route(teacher, "clean")), **settings)
        weights = checked_weights(pram_part_weights, PRAM_PART_WEIGHTS, f"{self.config_key}.pram_part_weights")
        used = {name: weight for name, weight in weights.items() if weight and self.pram_weight}
        self.pram_part_weights = {name: weight for name, weight in used.items() if name in self.part_names}
        # The teacher on the routes whose sites are compared; that of clean images is there already.
        on_routes = {"clean": (self._frozen[0], self._teacher_outputs)}
        self._teachers = {}  # part -> (teacher on its route, outputs of its sites)
        for name in self.pram_part_weights:
            route = route_of(name, self.routes)
            route = route if route in routes_of(teacher) else "clean"
            if route not in on_routes:
                on_route = frozen_copy(export_route(teacher, route))
                on_routes[route] = (on_route, SiteOutputs(on_route, self.compared_sites))
                self._frozen += (on_route,)
            self._teachers[name] = on_routes[route]

    def loss(
        self, images: Tensor, labels: Tensor, augmix_images: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        parts = self.begin_step(len(labels))
        wanted = self.teacher_outputs(images)
        losses, distances, metrics = {}, [], {}
        for part in parts:
            shown = self.shown(part, images, labels, augmix_images, wanted.logits, self.temperature)
            with self.on_route(part):
                found = self._student_outputs.run(self.network, shown)
            losses[part.name], terms = self.logit_loss(found.logits, wanted.logits[part.rows], labels[part.rows])
            if weight := self.pram_part_weights.get(part.name):
                if len(found.sites) < len(self.compared_sites):  # torch.compile took the graph of a like network
                    raise RuntimeError("sites were not seen; torch.compiler.reset() is needed before compile()")
                distance = activation_mismatch(self.form, found.sites, self._teacher_sites(part, shown, wanted))
                distances.append(weight * distance)
                terms["pram"] = distance.detach()
            metrics |= part_metrics(part, terms)
        loss = self.weighted(losses)
        if distances:
            loss = loss + self.pram_weight * torch.stack(distances).sum() / len(distances)
        return loss, metrics

    def _teacher_sites(self, part: Part, shown: Tensor, clean: Outputs) -> dict[str, Tensor]:
        """The outputs of the teacher's sites for the images that the student was shown."""
        if part.name == "clean":
            return {name: outputs[part.rows] for name, outputs in clean.sites.items()}
        teacher, outputs = self._teachers[part.name]
        with torch.no_grad():
            return outputs.run(teacher, shown).sites
