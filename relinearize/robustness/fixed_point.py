"""What private inference really computes: the network in fixed-point arithmetic.

Protocols hold numbers as integers, multiples of 2^-f, and cut products back to f fractional bits. Robustness measured
in float32 is a statement about another network if rounding changes its decisions; so attacks made on the float network
are tried on this one.
"""

import copy

import torch
from torch import Tensor, nn

from relinearize.backbones.batch_norm import NORMS, BatchNorm, folded
from relinearize.relu.activation import ReplacedReLU

FRACTION_BITS = 12  # CrypTen has 16, Delphi and SecureML 13 to 15: no protocol has much less


def to_grid(x: Tensor, bits: int) -> Tensor:
    """The nearest multiple of 2^-bits."""
    return (x * 2**bits).round() / 2**bits


class FixedPointNorm(nn.Module):
    """A batch norm in eval mode as the one multiplication and addition that it is."""

    def __init__(self, norm: BatchNorm, bits: int) -> None:
        super().__init__()
        factor, offset = folded(torch.ones_like(norm.running_var), None, norm)
        self.register_buffer("factor", to_grid(factor, bits))
        self.register_buffer("offset", to_grid(offset, bits))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * self.factor.view(shape) + self.offset.view(shape)


@torch.no_grad()
def fixed_point(network: nn.Module, bits: int = FRACTION_BITS) -> nn.Module:
    """A copy of `network` (one set of batch norms), in eval mode: constants and layer outputs multiples of 2^-bits."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, NORMS):
            network.set_submodule(name, FixedPointNorm(module, bits))
    polynomials = [module.coefficients for module in network.modules() if isinstance(module, ReplacedReLU)]
    for values in (*network.parameters(), *polynomials):
        values.copy_(to_grid(values, bits))
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, inputs, output: to_grid(output, bits))
    return network
