"""Batch norms in eval mode: one factor and one offset per channel, which the layer before them can carry."""

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def folded(weight: Tensor, bias: Tensor | None, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the one layer that computes norm(layer(x)), in the dtype of `weight`.

    `weight` (out channels first) and `bias` are those of a convolution or linear layer; ones of shape (C,) without bias
    give factor and offset of the norm itself. `norm` keeps running statistics.
    """
    factor = (norm.running_var.to(weight.dtype) + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight
    mean = norm.running_mean.to(weight.dtype)
    offset = -mean if bias is None else bias - mean
    offset = offset * factor if norm.bias is None else torch.addcmul(norm.bias.to(weight.dtype), offset, factor)
    return weight * factor.view(-1, *[1] * (weight.dim() - 1)), offset
