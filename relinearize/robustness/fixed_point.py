"""What private inference really computes: the network in fixed-point arithmetic.

Protocols hold numbers as integers, multiples of 2^-f, and cut products back to f fractional bits. Robustness measured
in float32 is a statement about another network if rounding changes its decisions; so attacks made on the float network
are tried on this one.
"""

import copy

import torch
from torch import Tensor, nn

from relinearize.backbones.batch_norm import NORMS, folded
from relinearize.relu.activation import ReplacedReLU

FRACTION_BITS = 12  # CrypTen has 16, Delphi and SecureML 13 to 15: no protocol has much less


def to_grid(x: Tensor, bits: int) -> Tensor:
    """The nearest multiple of 2^-bits."""
    return (x * 2**bits).round() / 2**bits


@torch.no_grad()
def fixed_point(network: nn.Module, bits: int = FRACTION_BITS) -> nn.Module:
    """A copy of `network` (one set of batch norms), in eval mode: constants and layer outputs multiples of 2^-bits."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, NORMS) and module.track_running_stats:  # one multiplication and one addition
            factor, offset = folded(torch.ones_like(module.running_var), None, module)
            module.weight, module.bias = (nn.Parameter(one, requires_grad=False) for one in (factor, offset))
            module.running_mean.zero_()
            module.running_var.fill_(1)
            module.eps = 0.0
    polynomials = [module.coefficients for module in network.modules() if isinstance(module, ReplacedReLU)]
    for values in (*network.parameters(), *polynomials):
        values.copy_(to_grid(values, bits))
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, inputs, output: to_grid(output, bits))
    return network
