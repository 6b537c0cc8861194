"""Copies of any user's network: unwrapped, and of the kinds that `copy.deepcopy` refuses."""

import copy
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from relinearize.errors import UserError, one_line


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of DataParallel, DistributedDataParallel and torch.compile."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        model = getattr(model, "_orig_mod", None) or model.module  # torch.compile's class takes seconds to import
    return model


def with_weights(model: nn.Module) -> nn.Module:
    """`unwrapped`. UserError where layers have no weights: lazy ones before an input, those on the device meta."""
    model = unwrapped(model)
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise UserError(f"{name or 'the network'} is a lazy layer without weights: run it on an image first")
        if any(weight.is_meta for weight in module.parameters(recurse=False)):
            raise UserError(f"{name or 'the network'} is on the device meta, without weights: load them first")
    return model


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of `model`, which stays as it is, that can be copied again after every forward pass.

    torch.nn.utils.prune, weight_norm and spectral_norm compute a weight before each forward pass and leave it on the
    module as a result of autograd, which deepcopy refuses. The copy drops its history after each pass.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        memo.update((id(tensor), tensor.detach().clone()) for tensor in _computed(module).values())
    try:
        network = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        problem = f"the network cannot be copied ({one_line(error)})"
        raise UserError(f"{problem}: keep files, locks and writers out of it, and past activations") from error
    originals = set(model.modules())
    for name, module in network.named_modules():
        forward = vars(module).get("forward")
        cells = (forward.__closure__ or ()) if isinstance(forward, FunctionType) else ()
        if any(isinstance(cell.cell_contents, nn.Module) and cell.cell_contents in originals for cell in cells):
            raise UserError(
                f"the forward of {name or 'the network'} was replaced by a function that holds the module itself: a "
                "copy would compute with the weights of the original; write a class"
            )
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # else torch's fused inference computes it without calling the module
        if module._forward_pre_hooks and _drop_history not in module._forward_hooks.values():
            module.register_forward_hook(_drop_history)
    return network


def _computed(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Tensor) and not value.is_leaf}


def _drop_history(module: nn.Module, *_: Any) -> None:
    for name, value in _computed(module).items():
        setattr(module, name, value.detach())
