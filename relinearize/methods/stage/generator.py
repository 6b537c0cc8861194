"""The state of a device's global generator, from which dropout draws: part of a checkpoint in mid-epoch."""

import torch
from torch import Tensor


def generator_state(device: torch.device) -> dict[str, Tensor]:
    """Kind of device -> state of its global generator."""
    return {device.type: torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()}


def set_generator_state(device: torch.device, states: dict[str, Tensor]) -> None:
    """Nothing is set for a device of another kind than the one the state was taken from."""
    state = states.get(device.type)
    if state is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif state is not None:
        torch.set_rng_state(state)
