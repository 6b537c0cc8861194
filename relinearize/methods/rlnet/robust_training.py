"""What RLNet's three stages share: parts of a batch on their routes, the attack inside the step, robust validation."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.routes import on_route, route_state, routes_of
from relinearize.errors import UserError, check_number, checked_keys
from relinearize.methods.replacement import GaussianFit
from relinearize.methods.rlnet.batch_parts import (
    PARTS,
    SPLITS,
    Part,
    batch_parts,
    checked_weights,
    route_of,
    used_parts,
)
from relinearize.methods.rlnet.folded_route import FoldedRoute
from relinearize.methods.rlnet.inner_attack import InnerAttack
from relinearize.methods.stage.stage import Stage
from relinearize.processes import process_count, process_rank, sum_over_processes
from relinearize.robustness.attack import is_right

SELECT_BY = ("mean", "clean", "robust")
ATTACK_ORDERS = ("first", "last")
VALIDATION = {"steps": 10, "images": 500, "every": 1}
GRAPHS = 32  # that torch.compile may make of one forward: routes, hooks, networks and what is differentiated all count


class RobustTraining(Stage):
    """A base, to stand before another Stage, for losses that are sums over the parts of a batch (see batch_parts.py).

    What is learned is one set of weights and one batch norm per route of `network`; each route is a network of its own
    that can be deployed (`variants`). The attack is made on, and its images go through, the adversarial route (the only
    one, if there is one) in eval mode.

    After an epoch `val/accuracy` is the clean accuracy on route clean, in the precision of training, and `val/robust`
    the accuracy under PGD on the adversarial route, on images drawn from the hold-out, always the same, and without
    autocast: float32, in which CUDA's convolutions may use TF32. The attack of a training step computes in the
    precision of training, on pixels in float32.

    `network` has 1, 2 or 3 routes (see backbones/routes.py) and is on route clean. Settings:
    conf/method/teacher/rlnet.yaml.
    """

    routed = True
    drawn_validation = True
    attack_loss = "ce"
    masks_change = False

    def __init__(
        self,
        network: nn.Module,
        *inputs: Any,
        second_view: str | None = "augmix",
        split: str = "shares",
        part_weights: Mapping[str, float] | None = None,
        attack: Mapping[str, Any] | None = None,
        attack_order: str = "first",
        robust_validation: Mapping[str, int] | None = None,
        select_by: str = "mean",
        **settings: Any,
    ) -> None:
        key = self.config_key
        routes = routes_of(network)
        attacked = FoldedRoute(network, route_of("adversarial", routes), self.masks_change)  # before there are hooks
        super().__init__(network, *inputs, **settings)
        self.routes = routes
        self.take_one_of(("augmix", None), second_view=second_view)
        self.take_one_of(SPLITS, split=split)
        self.take_one_of(ATTACK_ORDERS, attack_order=attack_order)
        self.take_one_of(SELECT_BY, select_by=select_by)
        self.part_weights = checked_weights(part_weights, dict.fromkeys(PARTS, 1.0), f"{key}.part_weights")
        if second_view is None:
            self.part_weights["augmix"] = 0.0
        self.part_names = used_parts(self.part_weights, routes, f"{key}.part_weights")
        self.attack = InnerAttack.of(attack, f"{key}.attack", loss=self.attack_loss)
        self.robust_validation = self._validation(robust_validation)
        self.batch_shares = shares = 1 if split == "full" else len(routes)
        if shares > 1 and self.batch_size < 8 * shares:  # the last batch may be a quarter of it
            raise UserError(
                f"{key}.batch_size={self.batch_size} is split among {shares} routes; give at least {8 * shares}"
            )
        self._attacked = attacked
        self._frozen += (attacked.network,)

    @classmethod
    def setting_defaults(cls) -> dict[str, Mapping[str, Any]]:
        """The defaults of the parameters that take a mapping; keys of results leave them out (see runs/keys.py)."""
        attack = asdict(InnerAttack(loss=cls.attack_loss))
        return {"attack": attack, "robust_validation": VALIDATION, "part_weights": dict.fromkeys(PARTS, 1.0)}

    def _validation(self, given: Mapping[str, int] | None) -> dict[str, int]:
        key = f"{self.config_key}.robust_validation"
        settings = VALIDATION | checked_keys(key, given, VALIDATION)
        for name, value in settings.items():
            check_number(f"{key}.{name}", value, f">= {int(name != 'images')}", integer=True)
        if not settings["images"] and self.select_by != "clean" and self.selection != "last":
            raise UserError(
                f"{key}.images=0 leaves nothing for {self.config_key}.select_by={self.select_by}; give select_by=clean "
                "or selection=last"
            )
        return settings

    def hold_polynomials(self, fit: GaussianFit) -> None:
        super().hold_polynomials(fit)
        if self.polynomials is not None:
            self.polynomials.lead(self._attacked.network)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        # Beyond its limit of 8 the compiler would run what comes later, the attack perhaps, without compiling it.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)

    # ---- for the loss of a step --------------------------------------------------------------------------------------

    def begin_step(self, count: int) -> list[Part]:
        """The parts of a batch of `count` images, the adversarial one last."""
        if "adversarial" in self.part_names and self.attack_order == "first":
            self._attacked.follow()
        return batch_parts(count, self.routes, self.part_names, self.split)

    def shown(
        self,
        part: Part,
        images: Tensor,
        labels: Tensor,
        augmix_images: Tensor | None,
        logits: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """The images of `part`, of a whole batch: as they are, their AugMix views, or under attack.

        `logits` (of the whole batch, N x classes) is what an attack with loss "kl" leads away from.
        """
        if part.name == "augmix":
            if augmix_images is None:
                raise ValueError("the batch has no AugMix images; the loader must give the stage's second_view")
            return augmix_images[part.rows]
        clean = images[part.rows]
        if part.name == "clean":
            return clean
        if self.attack_order == "last":
            self._attacked.follow()
        targets = (logits if self.attack.loss == "kl" else labels)[part.rows]
        part_of_step = self.trainer.fit_loop.batch_idx % self.batches_of_step if self.batches_of_step > 1 else 0
        further = (part_of_step,) if part_of_step else ()
        start = (self.seed, self.current_epoch, self.global_step, *self._own_noise, *further)
        return self.attack(self._attacked.network, clean, targets, start=start, temperature=temperature)

    @property
    def _own_noise(self) -> tuple[int, ...]:
        """What makes a process's random starts others than the first one's."""
        return (process_rank(),) if process_rank() else ()

    def on_route(self, part: Part) -> contextlib.AbstractContextManager[None]:
        """A context: the network works on the route of `part`."""
        return on_route(self.network, part.route)

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Part -> loss, as the mean over the parts of weight times loss."""
        return torch.stack([self.part_weights[name] * loss for name, loss in losses.items()]).sum() / len(losses)

    # ---- validation --------------------------------------------------------------------------------------------------

    def validate(self, row: dict[str, float]) -> None:
        super().validate(row)
        epochs = int(row["epoch"]) + 1
        last = epochs == self.epochs or (self.trainer is not None and self.trainer.should_stop)
        if self.robust_validation["images"] and (last or epochs % self.robust_validation["every"] == 0):
            row["val/robust"] = self.robust_accuracy()

    def score(self, row: dict[str, float]) -> float | None:
        clean, robust = row["val/accuracy"], row.get("val/robust")
        if self.select_by == "clean" or robust is None:
            return clean if self.select_by == "clean" else None
        return robust if self.select_by == "robust" else (clean + robust) / 2

    def robust_accuracy(self) -> float:
        """Percent of the first validation images that the adversarial route classifies correctly under PGD against it.

        They come in an order that is drawn. Every epoch from the same random starts, without autocast; the network's
        modes are left as they are.
        """
        self._attacked.follow()
        attack = replace(self.attack, steps=self.robust_validation["steps"], loss="ce")
        # Every process's share of the first images: those of its rank modulo the processes.
        left, right, seen = len(range(process_rank(), self.robust_validation["images"], process_count())), 0, 0
        for batch, (images, labels) in enumerate(self.validation_loader):
            if not left:
                break
            images, labels = images[:left], labels[:left]
            start = ("validation", self.seed, batch, *self._own_noise)
            adversarial = attack(self._attacked.network, images, labels, start=start)
            with torch.no_grad():
                right += int(is_right(self._attacked.network(adversarial), labels).sum())
            seen += len(labels)
            left -= len(labels)
        counts = torch.tensor([right, seen], device=self.device)
        sum_over_processes([counts])
        right, seen = counts.tolist()
        return 100.0 * right / seen

    # ---- the result --------------------------------------------------------------------------------------------------

    @property
    def variant_fractions(self) -> dict[str, float]:
        """A network of full width for each route; "" is the clean one: {"": 1.0, "route-adversarial": 1.0}."""
        return {variant_name(route): 1.0 for route in self.routes}

    def variants(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """From `weights()` or `selected()`: for each of `variant_fractions` the weights of the ordinary network."""
        return {variant_name(route): route_state(weights, route) for route in self.routes}


def variant_name(route: str) -> str:
    """What the network of a route is called beside the run: "" for the clean one, route-adversarial."""
    return "" if route == "clean" else f"route-{route}"


def part_metrics(part: Part, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`metrics` under the names of their part: those of the clean one as they are, accuracy_adversarial, ..."""
    return {name if part.name == "clean" else f"{name}_{part.name}": value for name, value in metrics.items()}
