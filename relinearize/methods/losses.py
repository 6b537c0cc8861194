"""The losses that the methods combine. All take logits N x classes and return a scalar."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def distillation_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Batch-mean KL(softmax(teacher / T) || softmax(student / T)) times T squared.

    Hinton et al. 2015; SNL and SENet both use T = 4. Computed in at least float32: softmax tails underflow in bf16.
    """
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = F.log_softmax(student_logits.to(dtype) / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.to(dtype) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits N x classes against int64 labels N, in at least float32."""
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


def logit_losses(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Cross-entropy and distillation of one batch, and both with the accuracy (percent) as detached metrics.

    `labels` are int64 N.
    """
    cross_entropy = classification_loss(logits, labels)
    divergence = distillation_divergence(logits, teacher_logits, temperature)
    metrics = {
        "cross_entropy": cross_entropy.detach(),
        "distillation": divergence.detach(),
        "accuracy": 100 * (logits.detach().argmax(1) == labels).float().mean(),
    }
    return cross_entropy, divergence, metrics


def student_losses(
    student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """`logit_losses` of pixels N x C x H x W. The teacher answers without a graph."""
    with torch.no_grad():
        teacher_logits = teacher(images)
    return logit_losses(student(images), teacher_logits, labels, temperature)
