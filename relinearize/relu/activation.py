"""The activations: a ReLU kept at some positions only, and SNL's ReLU with a slope per position.

Shapes: `x` is N x *shape, masks and slopes are `shape` (no batch dimension), shared by all images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from relinearize.relu.kernels import MaskedReLUFunction, ReplacedReLUFunction, SlopedReLUFunction
from relinearize.relu.replacement import check_coefficients


@fx.wrap  # one call for whoever traces a linearized network with torch.fx
def masked_relu(x: Tensor, mask: Tensor) -> Tensor:
    return MaskedReLUFunction.apply(x, mask)


class MaskedReLU(nn.Module):
    """y = where(mask, relu(x), x): a ReLU at the true positions of `mask`, the identity at the others.

    `mask` is a bool buffer of `shape` (C x H x W, or F for flat input), all true at first. It is not part of the state
    dict: weights and masks are kept in files of their own. `index` is the site's place in forward order.
    """

    mask: Tensor

    def __init__(self, shape: Sequence[int], index: int = 0) -> None:
        super().__init__()
        self.index = int(index)
        self.register_buffer("mask", torch.ones(tuple(shape), dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return masked_relu(x, self.mask)

    def extra_repr(self) -> str:
        return f"shape={tuple(self.mask.shape)}, index={self.index}"


class ReplacedReLU(MaskedReLU):
    """y = where(mask, relu(x), polynomial of x): something else than the identity where the ReLU is removed.

    `coefficients` (float32, see relu/replacement.py) are constants, not trained, and part of the state dict: a file of
    weights says what its network has at removed positions. ValueError where their shape does not fit `shape`.
    """

    coefficients: Tensor

    def __init__(self, coefficients: Tensor, shape: Sequence[int], index: int = 0) -> None:
        super().__init__(shape, index)
        check_coefficients(coefficients.shape, shape)
        self.register_buffer("coefficients", coefficients.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return ReplacedReLUFunction.apply(x, self.mask, self.coefficients)


class SlopedReLU(nn.Module):
    """y = x - alpha*min(x, 0), i.e. alpha*relu(x) + (1 - alpha)*x (SNL, section 3).

    `alpha` is an unconstrained float32 parameter of `shape`: 1 is a ReLU, 0 the identity. Starts at 1.
    """

    alpha: nn.Parameter

    def __init__(self, shape: Sequence[int], index: int = 0) -> None:
        super().__init__()
        self.index = int(index)
        self.alpha = nn.Parameter(torch.ones(tuple(shape)))

    @property
    def slope(self) -> Tensor:
        """What multiplies min(x, 0); a subclass may compute it from alpha."""
        return self.alpha

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the compiler fuses the formula, forward and backward, in float32
            return (x - self.slope * x.clamp(max=0)).to(x.dtype)
        return SlopedReLUFunction.apply(x, self.slope)

    def extra_repr(self) -> str:
        return f"shape={tuple(self.alpha.shape)}, index={self.index}"
