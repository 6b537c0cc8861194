"""Which convolutions of a network go by Winograd's algorithm, and for how long."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn

from relinearize.convolution.building import library
from relinearize.convolution.winograd import convolve
from relinearize.errors import UserError, check_choice

CHOICES = ("auto", "torch", "winograd")


def resolve_convolutions(choice: str, possible: bool = True) -> str:
    """ "winograd" or "torch", of a choice of `CHOICES`.

    "auto" takes Winograd's where it was seen to be about twice as fast: on CPUs with AVX2 and nothing wider, if there
    is a C compiler. `possible`: whether the training is in float32 and channels_last on a CPU, without torch.compile.
    UserError for "winograd" where it cannot be.
    """
    check_choice("trainer.convolutions", choice, CHOICES)
    if choice == "winograd":
        if not possible:
            raise UserError(
                "trainer.convolutions=winograd needs trainer.accelerator=cpu, precision=32, channels_last=true and no "
                "compile; auto takes it where it can be"
            )
        library()
        return choice
    if choice == "auto" and possible and torch.backends.cpu.get_cpu_capability() == "AVX2":
        with suppress(UserError):  # no compiler: slower, and no less right
            library()
            return "winograd"
    return "torch"


@contextmanager
def on_winograd(*networks: nn.Module) -> Iterator[None]:
    """Inside of it 3x3 convolutions of `networks` with stride 1 or 2 and padding 1 are Winograd's where that is faster.

    Modules keep their class, names and weights, and so do copies that are made meanwhile.
    """
    chosen = {module for network in networks for module in network.modules() if is_plain(module)}
    for module in chosen:  # what nn.Conv2d.forward calls with its input, weight and bias
        module._conv_forward = functools.partial(convolve, stride=module.stride[0])
    try:
        yield
    finally:
        for module in chosen:
            del module._conv_forward


def is_plain(module: nn.Module) -> bool:
    """Whether it is a 3x3 convolution of stride 1 or 2 and zero padding 1, neither grouped nor dilated."""
    return (
        type(module) is nn.Conv2d
        and module.stride in ((1, 1), (2, 2))
        and (module.kernel_size, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1))
        and (module.groups, module.padding_mode) == (1, "zeros")
    )
