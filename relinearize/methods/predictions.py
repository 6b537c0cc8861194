"""What accuracy does not say of predictions: which classes are worst off, and whether the confidence is right."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINS = 15  # of confidence


@torch.no_grad()
def measure_predictions(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, dict[str, Any]]:
    """Percent of `batches` (pixels N x C x H x W in [0, 1], labels N) classified correctly, and more of these.

    `per_class`: percent of each class's images, None for a class without images. `ece`: expected calibration error in
    percent, the mean distance of confidence and accuracy over 15 equal bins, weighted by their images (Guo et al., ICML
    2017). `nll`: mean negative log-likelihood, in nats. Leaves the network in eval mode.
    """
    # Not above: what is finished is found without it.
    from torchmetrics.functional.classification import multiclass_calibration_error

    network.eval()
    found = [(network(images).float(), labels) for images, labels in batches]
    logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    classes = logits.shape[1]
    right = logits.argmax(1) == labels
    counts, hits = (torch.bincount(chosen, minlength=classes).tolist() for chosen in (labels, labels[right]))
    error = multiclass_calibration_error(logits.softmax(1), labels, classes, BINS, "l1")
    return 100.0 * right.sum().item() / len(labels), {
        "per_class": [100.0 * hit / count if count else None for hit, count in zip(hits, counts, strict=True)],
        "ece": 100.0 * error.item(),
        "nll": F.cross_entropy(logits, labels).item(),
    }
