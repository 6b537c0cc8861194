"""Third-party attacks (pyautoattack, torchattacks), with their side effects contained; torchattacks by class name.

Such attacks seed the global random state, switch whole networks to train mode, fill gradients of parameters, need
gradients enabled, float32 and contiguous images, and some return tensors that still hang on a graph.
`third_party_attack` gives them what they need, undoes what they leave behind and checks what they return.
"""

import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.robustness.attack import under_attack

Attack = Callable[[Tensor, Tensor], Tensor]

# Made of other attacks or of a loader, not of a network and numbers.
WRAPPERS = ("LGV", "MultiAttack")
TORCHATTACKS = tuple(sorted(set(torchattacks.__all__) - set(WRAPPERS)))

# By which distance the attacks that have no argument for it measure; all others: the maximum norm.
OTHER_DISTANCES = {
    **dict.fromkeys(("CW", "DeepFool", "EADEN", "PGDL2", "PGDRSL2"), "L2"),
    **dict.fromkeys(("JSMA", "OnePixel", "Pixle", "SparseFool"), "L0"),
    **dict.fromkeys(("GN", "VANILA"), "none"),
    "EADL1": "L1",
}


class LogitsOnly(nn.Module):
    """What a third-party attack sees: pixels in, float32 logits out, also where the network returns (logits, more)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False  # else torchattacks calls train() on all of it when it is done

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.network(x)
        return (outputs[0] if isinstance(outputs, tuple | list) else outputs).float()


def third_party_attack(
    build: Callable[[nn.Module], Attack],
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    epsilon: float | None = None,
    norm: str = "Linf",
) -> Tensor:
    """What the attack made by `build(network)` does to `images` (N x C x H x W in [0, 1], labels int64 N).

    The global random states (torch, NumPy, Python) are seeded with `seed` and given back; so are module modes,
    requires_grad and gradients of the network. The attack runs in float32 whatever the caller's mode or autocast.
    The result is detached and float32. Raises RuntimeError if it leaves [0, 1] or the ball of radius `epsilon` (in
    pixels; None: no ball) by more than rounding.
    """
    gradients = {parameter: parameter.grad for parameter in network.parameters()}
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(images.device.type, enabled=False),
        under_attack(network),
        random_states(seed),
    ):
        pixels = images.detach().float().clone(memory_format=torch.contiguous_format)
        try:
            for parameter in gradients:
                parameter.grad = None
            found = build(LogitsOnly(network))(pixels.clone(), labels.detach().clone())
        finally:
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
        found = found.detach().float()
        check_threat_model(pixels, found, epsilon, norm)
    return found


def check_threat_model(images: Tensor, adversarial: Tensor, epsilon: float | None, norm: str = "Linf") -> None:
    """RuntimeError unless `adversarial` is in [0, 1] and, in `norm`, within `epsilon` of `images`; no NaN passes."""
    low, high = (bound.item() for bound in adversarial.aminmax())
    if not (adversarial.shape == images.shape and low >= 0 and high <= 1):
        raise RuntimeError(
            f"attacked images {tuple(adversarial.shape)} of pixels {low:g} to {high:g}, not {tuple(images.shape)} "
            "in [0, 1]"
        )
    if epsilon is None or norm not in ("Linf", "L2", "L1"):
        return
    order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    distance = torch.linalg.vector_norm((adversarial - images).flatten(1), order, dim=1).max().item()
    # Sums over thousands of pixels round more than a maximum.
    if not distance <= epsilon + (1e-6 if norm == "Linf" else 1e-4 * epsilon + 1e-6):
        raise RuntimeError(f"attacked images are {distance:g} away in {norm}, epsilon is {epsilon:g}")


@contextmanager
def random_states(seed: int) -> Iterator[None]:
    """torch, NumPy and Python seeded with `seed` (below 2^32); afterwards as before."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def class_count(network: nn.Module, images: Tensor) -> int:
    """How many logits `network` has for an image."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False), under_attack(network):
        return LogitsOnly(network)(images[:1].float()).shape[1]


def check_classes(classes: int, what: str, least: int) -> None:
    if classes < least:
        raise UserError(
            f"attack: {what} compares {least} logits, but the network has {classes}; take the attack pgd100x5 or square"
        )


# ---- torchattacks ----------------------------------------------------------------------------------------------------


def torchattacks_class(name: str) -> type[torchattacks.attack.Attack]:
    """The class of that name; UserError for another."""
    if name in WRAPPERS:
        raise UserError(f"attack: torchattacks' {name} is made of other attacks or training, not of a network alone")
    if name not in TORCHATTACKS:
        raise UserError(f"attack: torchattacks has no {name!r}; valid are {', '.join(TORCHATTACKS)}")
    return getattr(torchattacks, name)


def torchattacks_attack(
    name: str, network: nn.Module, images: Tensor, labels: Tensor, *, seed: int, arguments: Mapping[str, Any]
) -> Tensor:
    """Attack `name` of torchattacks with the `arguments` of its class, behind the guard.

    `seed` and `n_classes` are filled in where the class takes them and `arguments` does not have them. Raises UserError
    for an unknown name or argument.
    """
    attack_class = torchattacks_class(name)
    arguments = dict(arguments)
    taken = check_arguments(name, arguments)
    if "seed" in taken:
        arguments.setdefault("seed", seed)
    if "n_classes" in taken:
        arguments.setdefault("n_classes", class_count(network, images))
    if (least := torchattacks_least_classes(name, arguments)) > 2:
        check_classes(arguments.get("n_classes") or class_count(network, images), f"torchattacks' {name}", least)
    norm = arguments.get("norm") or OTHER_DISTANCES.get(name, "Linf")
    bound = {**taken, **arguments}.get("max_epsilon" if "max_epsilon" in taken else "eps")
    return third_party_attack(
        lambda logits: attack_class(logits, **arguments),
        network,
        images,
        labels,
        seed=seed,
        epsilon=bound,
        norm=norm,
    )


def torchattacks_least_classes(name: str, arguments: Mapping[str, Any]) -> int:
    """How many logits a network must have for attack `name`: the targeted loss compares four, the dlr loss three."""
    return 4 if name in ("APGDT", "AutoAttack") else 3 if arguments.get("loss") == "dlr" else 2


def check_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a torchattacks class with their defaults; UserError if `arguments` has another one."""
    parameters = inspect.signature(torchattacks_class(name).__init__).parameters
    taken = {key: value.default for key, value in parameters.items() if key not in ("self", "model")}
    if unknown := [key for key in arguments if key not in taken]:
        raise UserError(f"attack.arguments: {name} does not take {', '.join(unknown)}; it takes {', '.join(taken)}")
    return taken
