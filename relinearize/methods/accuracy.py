"""Counting right answers: the one function behind validation, test and `relinearize evaluate`."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from relinearize.methods.processes import add_up


@torch.no_grad()
def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "32") -> float:
    """Percent of `batches` (pixels N x C x H x W in [0, 1], labels N) that `network` classifies rightly.

    Runs in eval mode and gives every module its former mode back. `precision` "bf16" evaluates under autocast.
    Several processes: each counts its own batches, the sums are added. Raises ValueError on an empty iterable.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    correct, seen = None, 0
    try:
        for images, labels in batches:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
                right = (network(images).argmax(1) == labels).sum()
            correct = right if correct is None else correct + right
            seen += labels.numel()
    finally:
        for module, mode in modes.items():
            module.training = mode
    if correct is None:
        raise ValueError("accuracy of no images")
    totals = torch.stack([correct, torch.tensor(seen, device=correct.device)])
    add_up([totals])
    correct, seen = totals.tolist()
    return 100.0 * correct / seen
