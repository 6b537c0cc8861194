"""Which of torch's functions are ReLUs, which are other activations, which are gates."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

RELU_FUNCTIONS = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})
INPLACE_RELU_FUNCTIONS = frozenset({torch.relu_, Tensor.relu_})

# Activations that cost a comparison or worse and are no ReLU: they would stay in the network, uncounted.
OTHER_ACTIVATIONS: dict[Callable[..., Any], str] = {
    F.relu6: "ReLU6", F.hardtanh: "Hardtanh", F.hardtanh_: "Hardtanh", F.leaky_relu: "LeakyReLU",
    F.leaky_relu_: "LeakyReLU", F.prelu: "PReLU", torch.prelu: "PReLU", Tensor.prelu: "PReLU", F.rrelu: "RReLU",
    F.rrelu_: "RReLU", F.elu: "ELU", F.elu_: "ELU", F.selu: "SELU", F.selu_: "SELU", F.celu: "CELU", F.celu_: "CELU",
    F.gelu: "GELU", F.silu: "SiLU", F.mish: "Mish", F.hardswish: "Hardswish", F.softplus: "Softplus",
    F.threshold: "Threshold", F.threshold_: "Threshold", F.hardshrink: "Hardshrink", F.softshrink: "Softshrink",
    F.tanhshrink: "Tanhshrink", F.softsign: "Softsign", F.logsigmoid: "LogSigmoid", F.glu: "GLU",
    torch.clamp: "clamp", Tensor.clamp: "clamp", Tensor.clamp_: "clamp", torch.clamp_min: "clamp",
    Tensor.clamp_min: "clamp", Tensor.clamp_min_: "clamp", torch.clip: "clamp", Tensor.clip: "clamp",
}  # fmt: skip

# Gates and attention: not rectifiers, so they may stay, but they cost as well, and no ReLU count shows it.
GATES: dict[Callable[..., Any], str] = {
    F.sigmoid: "Sigmoid", torch.sigmoid: "Sigmoid", Tensor.sigmoid: "Sigmoid", torch.sigmoid_: "Sigmoid",
    Tensor.sigmoid_: "Sigmoid", F.hardsigmoid: "Hardsigmoid", F.tanh: "Tanh", torch.tanh: "Tanh", Tensor.tanh: "Tanh",
    F.softmax: "Softmax", torch.softmax: "Softmax", Tensor.softmax: "Softmax",
    F.scaled_dot_product_attention: "attention",
}  # fmt: skip
