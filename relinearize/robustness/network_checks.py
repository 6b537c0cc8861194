"""Gradient-masking checks that look at the network alone; those that compare attacks: sanity.py."""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relinearize.robustness.attack import under_attack
from relinearize.robustness.attacks import PGD, logits_of
from relinearize.robustness.third_party import Square


@dataclass(frozen=True)
class Check:
    """What one check found; `message` is one line for people, `numbers` what it says so by."""

    name: str
    passed: bool
    numbers: dict[str, float]
    message: str


def zero_gradients(network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0) -> Check:
    """For less than 1 % of the images the gradient of the cross-entropy is zero in all pixels."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        x = images.detach().float().clone().requires_grad_()
        with under_attack(network):
            loss = F.cross_entropy(network(x).float(), labels.clone(), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
    share = 100 * (gradient.flatten(1) == 0).all(1).float().mean().item()
    return Check("zero gradients", share < 1, {"percent": share}, f"all zero for {share:.1f} % of the images")


def determinism(network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0) -> Check:
    """Two forward passes agree to 1e-4 of their size, and every module is in eval mode as it is given."""
    training = sum(module.training for module in network.modules())
    one, two = (logits_of(network, images).float() for _ in range(2))
    difference = (one - two).abs().max().item() / max(1.0, one.abs().max().item())
    passed = difference <= 1e-4 and not training
    message = f"two forward passes differ by {difference:.1g}; {training or 'no'} modules in train mode"
    return Check("determinism", passed, {"difference": difference, "training": training}, message)


def logits_not_probabilities(
    network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0
) -> Check:
    """The outputs are no probabilities: outside of [0, 1], or with another sum than 1."""
    outputs = logits_of(network, images).float()
    low, high = outputs.min().item(), outputs.max().item()
    off = (outputs.sum(1) - 1).abs().max().item()
    passed = low < -1e-5 or high > 1 + 1e-5 or off > 1e-5
    message = f"outputs from {low:.3g} to {high:.3g}" + ("" if passed else ", each image's sum 1: probabilities")
    return Check("logits", passed, {"lowest": low, "highest": high}, message)


def threat_model(network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0) -> Check:
    """The images, and what PGD-20 makes of them, are in [0, 1]; no pixel is moved further than epsilon."""
    found = PGD(epsilon, early_stop=False)(network, images, labels, seed)
    distance = 255 * (found - images).abs().max().item()
    low, high = (255 * torch.stack([images, found]).aminmax()[side].item() for side in (0, 1))
    passed = distance <= epsilon + 255e-6 and low >= 0 and high <= 255
    message = f"pixels from {low:.1f} to {high:.1f}, moved by up to {distance:.2f}/255"
    return Check("threat model", passed, {"largest": distance, "lowest": low, "highest": high}, message)


def clean_agreement(network: nn.Module, images: Tensor, reference: nn.Module | Callable[[Tensor], Tensor]) -> Check:
    """The attacked network's logits are those of `reference`, the network that it wraps, to 1e-5."""
    mine = logits_of(network, images).float()
    other = logits_of(reference, images) if isinstance(reference, nn.Module) else reference(images).detach()
    difference = (mine - other.float()).abs().max().item() / max(1.0, mine.abs().max().item())
    message = f"logits differ by {difference:.1g} from those of the network behind its adapter"
    return Check("clean agreement", difference <= 1e-5, {"difference": difference}, message)


def random_state(network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = 8, seed: int = 0) -> Check:
    """One of our attacks and a third-party one leave the global random states as they were."""
    images, labels = images[:2], labels[:2]
    former = _global_states(images.device)
    PGD(epsilon, steps=1)(network, images, labels, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Square(epsilon, 2)(network, images, labels, seed)
    changed = [name for name, state in _global_states(images.device).items() if state != former[name]]
    message = f"changed: {', '.join(changed)}" if changed else "as before the attacks"
    return Check("random state", not changed, {"changed": len(changed)}, message)


def _global_states(device: torch.device) -> dict[str, object]:
    name, keys, *rest = np.random.get_state()
    states = {
        "torch": torch.get_rng_state().tolist(),
        "NumPy": (name, keys.tolist(), *rest),
        "Python": random.getstate(),
    }
    if device.type == "cuda":
        states["CUDA"] = torch.cuda.get_rng_state(device).tolist()
    return states
