"""The attack inside of a training step: PGD with few steps, its start a function of where the training stands."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.data.order import seeded_generator
from relinearize.errors import check_choice, check_number, check_radius, checked_keys
from relinearize.robustness.attack import LOSSES, pgd

PIXEL = 1 / 255


@dataclass(frozen=True)
class InnerAttack:
    """RLNet's (CVPRW 2024, its official code): L-infinity PGD-7 from a uniform start.

    epsilon, step_size: in pixels times 255. Refused where they look like pixels of [0, 1]: 0.031 would be an attack of
    0.031/255, a training that is not robust without a word.
    loss: what it raises. "ce", "margin": that of the labels; "kl": KL_T of the given logits and the network's.
    """

    epsilon: float = 8.0
    step_size: float = 2.0
    steps: int = 7
    loss: str = "ce"
    random_start: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None, key: str, **defaults: Any) -> "InnerAttack":
        """From the mapping at config key `key`. UserError for unknown keys and impossible values."""
        attack = cls(**defaults | checked_keys(key, settings, [field.name for field in fields(cls)]))
        check_choice(f"{key}.loss", attack.loss, LOSSES)
        check_choice(f"{key}.random_start", attack.random_start, (True, False))
        for name in ("epsilon", "step_size"):
            check_radius(f"{key}.{name}", getattr(attack, name), zero=False)
        check_number(f"{key}.steps", attack.steps, ">= 1", integer=True)
        return attack

    def __call__(
        self, network: nn.Module, images: Tensor, targets: Tensor, *, start: tuple[object, ...], temperature: float = 1
    ) -> Tensor:
        """Adversarial examples of pixels N x C x H x W in [0, 1]; `targets` int64 labels N, or logits for "kl".

        `start`: what the random start is a function of, so that a resumed training attacks as it would have.
        """
        generator = torch.Generator(images.device).manual_seed(seeded_generator("attack", *start).initial_seed())
        pixels = {"epsilon": self.epsilon * PIXEL, "step_size": self.step_size * PIXEL}
        settings = asdict(self) | pixels
        return pgd(network, images, targets, **settings, generator=generator, temperature=temperature)
