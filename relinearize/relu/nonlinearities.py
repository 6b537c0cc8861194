"""Which operators are ReLUs, which compute a non-linear function of each value, and which of these are only gates."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

RELU_FUNCTIONS = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
INPLACE_RELU_FUNCTIONS = frozenset({torch.relu_, Tensor.relu_})

# Elementwise, but polynomials of the values, copies, choices by a given mask (a comparison that makes it is seen by
# itself), or checks whose result is no activation.
POLYNOMIALS = frozenset({
    "add", "sub", "rsub", "mul", "neg", "positive", "square", "addcmul", "lerp", "clone", "copy", "fill", "zero",
    "where", "masked_fill", "masked_scatter", "conj_physical", "isnan", "isinf", "isfinite",
})  # fmt: skip
# Not rectifiers, so they may stay, but they cost as well, and no ReLU count shows it.
GATES = frozenset({
    "sigmoid", "hardsigmoid", "tanh", "exp", "sqrt", "rsqrt", "reciprocal", "div", "addcdiv", "pow", "_softmax",
    "_log_softmax", "amax", "amin", "max", "min", "topk", "sort", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention", "mkldnn_rnn_layer", "_cudnn_rnn",  # an LSTM's sigmoids and tanhs
})  # fmt: skip
# Elementwise, though torch does not tag them as such.
UNTAGGED = frozenset({
    "_prelu_kernel", "prelu", "rrelu_with_noise", "hardswish", "log_sigmoid_forward", "glu", "threshold",
})  # fmt: skip


def name_of(operator: OpOverload) -> str:
    """`clamp` for aten.clamp_.default."""
    return operator.overloadpacket.__name__.removesuffix("_")


def is_nonlinear(operator: OpOverload, arguments: Sequence[Any], activations: int) -> bool:
    """Whether `operator` computes a non-linear function of `activations` tensors that depend on the image.

    Read off torch's own tag `pointwise`: an operator of a later release is not overlooked.
    """
    name = name_of(operator)
    if name in ("div", "addcdiv"):
        return activations > 1  # by a constant it is linear
    if name == "pow" and isinstance(arguments[-1], int | float) and arguments[-1] in (1, 2, 3):
        return False
    if name in GATES | UNTAGGED:
        return True
    packet = getattr(torch.ops.aten, name, operator.overloadpacket)  # in-place forms are not always tagged
    pointwise = any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())
    return name not in POLYNOMIALS and (pointwise or torch.Tag.pointwise in operator.tags)
