"""Weight files: our own (safetensors), and those of networks that users trained elsewhere."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.files import write_bytes

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    # clone: safetensors refuses tensors that share memory
    write_bytes(path, save({key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch file (read with weights_only: nothing is executed).

    In a torch file the state dict may lie under one of `WRAPPERS`. UserError names `path` and what is wrong.
    """
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as weights: {reason}") from error
    except Exception as error:  # torch raises pickle.UnpicklingError for files that would execute code
        raise UserError(f"{path} holds more than tensors and is refused ({type(error).__name__})") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    tensors = (
        {key: value for key, value in content.items() if isinstance(value, Tensor)} if isinstance(content, dict) else {}
    )
    if not tensors:
        raise UserError(f"{path} holds no state dict (a mapping of names to tensors)")
    return tensors


def match_weights(network: nn.Module, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """`weights` under the names of `network`: by name if all names agree, else by order and shape.

    `num_batches_tracked` counters may be missing, as in files of other programs. UserError gives both lists where
    neither way fits.
    """
    own = network.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    if set(own) - counters <= set(weights) and all(
        weights[key].shape == own[key].shape for key in set(own) & set(weights)
    ):
        return {key: weights.get(key, own[key]) for key in own}
    names = [key for key in own if key not in counters]
    given = [key for key in weights if not key.endswith("num_batches_tracked")]
    shapes_agree = len(names) == len(given) and all(
        own[name].shape == weights[key].shape for name, key in zip(names, given, strict=True)
    )
    if not shapes_agree:
        ours = ", ".join(f"{name} {tuple(own[name].shape)}" for name in names)
        theirs = ", ".join(f"{key} {tuple(weights[key].shape)}" for key in given)
        raise UserError(
            f"{path} does not fit the backbone, neither by name nor by order and shape. "
            f"The backbone has {len(names)}: {ours}. The file has {len(given)}: {theirs}"
        )
    renamed = dict(zip(names, (weights[key] for key in given), strict=True))
    return {key: renamed.get(key, own[key]) for key in own}


def load_initial(network: nn.Module, path: Path) -> None:
    """Start `network` from the weights in `path`, in place.

    A head for another number of classes is left out: tensors whose shape differs in its first dimension only, of the
    network's last layer. UserError where the rest does not fit.
    """
    own, weights = network.state_dict(), read_weights(path)
    head = next((name for name in reversed(own) if name.endswith(".weight") and own[name].dim() > 1), "")
    for name in (head, head.replace(".weight", ".bias")):
        given = weights.get(name)
        if given is not None and own[name].shape[1:] == given.shape[1:]:
            weights[name] = given if own[name].shape == given.shape else own[name]
    network.load_state_dict(match_weights(network, weights, path))
