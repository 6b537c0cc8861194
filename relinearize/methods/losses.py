"""The losses that the methods combine, and what is measured of predictions. Losses take logits N x classes and return
a scalar."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relinearize.processes import sum_over_processes
from relinearize.robustness.attack import in_eval_mode, is_right, log_probabilities

BINS = 15  # of confidence, in a calibration error


def distillation_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Batch-mean KL(softmax(teacher / T) || softmax(student / T)) times T squared.

    Hinton et al. 2015; SNL and SENet both use T = 4. Computed in at least float32: softmax tails underflow in bf16.
    """
    student, teacher = (log_probabilities(logits, temperature) for logits in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits N x classes against int64 labels N, in at least float32."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


def percent_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Of the rows of logits N x classes whose largest is the label's; a detached scalar."""
    return 100 * is_right(logits.detach(), labels).float().mean()


def logit_losses(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, standardise: bool = False
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Cross-entropy and distillation of one batch, and both with the accuracy (percent) as detached metrics.

    `labels` are int64 N. `standardise`: distillation on standardised logits.
    """
    cross_entropy = classification_loss(logits, labels)
    compared = (standardised(logits), standardised(teacher_logits)) if standardise else (logits, teacher_logits)
    divergence = distillation_divergence(*compared, temperature)
    metrics = {
        "cross_entropy": cross_entropy.detach(),
        "distillation": divergence.detach(),
        "accuracy": percent_correct(logits, labels),
    }
    return cross_entropy, divergence, metrics


def standardised(logits: Tensor) -> Tensor:
    """Each row minus its mean, over its deviation + 1e-7 (Sun et al., CVPR 2024)."""
    logits = logits.float()
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


@torch.no_grad()
def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "32") -> float:
    """Percent of `batches` (pixels N x C x H x W in [0, 1], labels N) that `network` classifies correctly.

    Runs in eval mode and gives every module its former mode back. `precision` "bf16" evaluates under autocast.
    Several processes: each counts its own batches, the sums are added. Raises ValueError on an empty iterable.
    """
    correct, seen = None, 0
    with in_eval_mode(network):
        for images, labels in batches:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
                right = is_right(network(images), labels).sum()
            correct = right if correct is None else correct + right
            seen += labels.numel()
    if correct is None:
        raise ValueError("accuracy of no images")
    totals = torch.stack([correct, torch.tensor(seen, device=correct.device)])
    sum_over_processes([totals])
    correct, seen = totals.tolist()
    return 100.0 * correct / seen


@torch.no_grad()
def measure_predictions(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, dict[str, Any]]:
    """Percent of `batches` (pixels N x C x H x W in [0, 1], labels N) classified correctly, and more of these.

    `per_class`: percent of each class's images, None for a class without images. `ece`: expected calibration error in
    percent, the mean distance of confidence and accuracy over 15 equal bins, weighted by their images (Guo et al., ICML
    2017). `nll`: mean negative log-likelihood, in nats. Both are None where that is infinite or no number. Leaves the
    network in eval mode.
    """
    # Not above: what is finished is found without it.
    from torchmetrics.functional.classification import multiclass_calibration_error

    network.eval()
    found = [(network(images).float(), labels) for images, labels in batches]
    logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    classes = logits.shape[1]
    right = is_right(logits, labels)
    counts, hits = (torch.bincount(chosen, minlength=classes).tolist() for chosen in (labels, labels[right]))
    nll = F.cross_entropy(logits, labels).item()
    confidences = logits.softmax(1).clamp(max=1 - 1e-7)  # torchmetrics has a bin of its own for 1.0
    error = multiclass_calibration_error(confidences, labels, classes, BINS, "l1")
    return 100.0 * right.sum().item() / len(labels), {
        "per_class": [100.0 * hit / count if count else None for hit, count in zip(hits, counts, strict=True)],
        **({"ece": 100.0 * error.item(), "nll": nll} if math.isfinite(nll) else {"ece": None, "nll": None}),
    }
