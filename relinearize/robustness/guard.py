"""Third-party attacks (pyautoattack, torchattacks) with their side effects contained.

Such attacks seed the global random state, switch whole networks to train mode, fill gradients of parameters, need
gradients enabled, float32 and contiguous images, and some return tensors that still hang on a graph.
`third_party_attack` gives them what they need, undoes what they leave behind and checks what they return.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from relinearize.robustness.attack import in_eval_mode
from relinearize.robustness.attacks import check_threat_model


class FiniteGradient(torch.autograd.Function):
    """x, whose gradient is 0 where it is no number."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.nan_to_num()


class LogitsOnly(nn.Module):
    """What a third-party attack sees: pixels in, float32 logits out, also where the network returns (logits, more).

    Finite ones: polynomials may leave others, from which attacks would make pixels that are no numbers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = False  # else torchattacks calls train() on all of it when it is done

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.network(FiniteGradient.apply(x))
        return (outputs[0] if isinstance(outputs, tuple | list) else outputs).float().nan_to_num(0.0, 1e9, -1e9)


def third_party_attack(
    build: Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]],
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
        in_eval_mode(network),
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
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False), in_eval_mode(network):
        return LogitsOnly(network)(images[:1].float()).shape[1]
