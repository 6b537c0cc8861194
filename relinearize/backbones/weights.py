"""Weight files: our own (safetensors), and those of networks that users trained elsewhere."""

import itertools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.files import check_readable, write_bytes
from relinearize.progress import say

# Under what names programs keep a state dict in their checkpoints, and what wrappers of networks put before each name.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "ema",
    "model_ema",
    "ema_state_dict",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
COUNTER = "num_batches_tracked"
COUNTERS = (COUNTER, "n_averaged", "total_ops", "total_params")  # no weights: of batch norms, averages and profilers


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    # clone: safetensors refuses tensors that share memory
    write_bytes(path, save({key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch file (read with weights_only: nothing is executed).

    In a torch file the state dict may lie under some of `WRAPPERS`. UserError names `path` and what is wrong.
    """
    check_readable(path)
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
        with path.open("rb") as file:
            if not file.read(2).startswith((b"PK", b"\x80")):  # a zip archive, or a pickle of old
                raise UserError(f"{path} cannot be read as weights: it is no file of torch") from error
        raise UserError(
            f"{path} holds more than tensors and is refused ({type(error).__name__}); "
            "save its state dict alone: torch.save(checkpoint['state_dict'], FILE)"
        ) from error
    while isinstance(content, dict) and (found := [name for name in WRAPPERS if isinstance(content.get(name), dict)]):
        if len(found) > 1:
            say(f"{path} holds {', '.join(found)}: {found[0]} is taken")
        content = content[found[0]]
    tensors = (
        {key: value for key, value in content.items() if isinstance(value, Tensor)} if isinstance(content, dict) else {}
    )
    if not tensors:
        raise UserError(f"{path} holds no state dict (a mapping of names to tensors)")
    return tensors


def match_weights(network: nn.Module, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """`weights` under the names of `network`: by name, whatever stood before the names; else by order.

    By order only where all shapes and the last parts of the names (weight, bias, running_mean) agree. What else the
    file holds beside names of the network is left out with a line that says so. `num_batches_tracked` counters may be
    missing, as in files of other programs. UserError with the first difference where neither way fits, and for values
    that are not finite.
    """
    own = network.state_dict()
    names = [name for name in own if last_part(name) != COUNTER]
    weights = without_prefixes(weights, names)
    found = [name for name in names if name in weights]
    if 2 * len(found) >= len(names):  # it names this network's parts: then all of them
        difference = next((name for name in names if name not in found or weights[name].shape != own[name].shape), None)
        if difference is not None:
            raise UserError(f"{path} does not fit the backbone: {described(difference, own, weights)}")
        extra = [name for name in weights if name not in own and last_part(name) not in COUNTERS]
        if extra:
            say(f"{path}: {len(extra)} tensors that the backbone does not have are left out, first {extra[0]}")
        matched = {name: weights[name] for name in own if name in weights}
    else:
        given = [name for name in weights if last_part(name) not in COUNTERS]
        if path.suffix == ".safetensors" and given != sorted(given, key=by_numbers):
            raise UserError(
                f"{path} does not fit the backbone: its names are others, and a .safetensors file keeps no order; "
                f"rename its tensors: {names[0]}, {names[1]}, ..."
            )
        for ours, theirs in itertools.zip_longest(names, given):
            same = None not in (ours, theirs) and last_part(ours) == last_part(theirs)
            if not same or own[ours].shape != weights[theirs].shape:
                raise UserError(
                    f"{path} does not fit the backbone, neither by name nor by order. First difference of "
                    f"{len(names)} and {len(given)} tensors: the backbone has {shaped(ours, own)}, "
                    f"the file {shaped(theirs, weights)}"
                )
        matched = {ours: weights[theirs] for ours, theirs in zip(names, given, strict=True)}
    for name, value in matched.items():
        same_kind = last_part(name) == COUNTER or value.is_floating_point() == own[name].is_floating_point()
        if not same_kind or value.layout != torch.strided or value.is_meta:
            raise UserError(f"{path}: {name} is {value.dtype} {value.layout}, the backbone has {own[name].dtype}")
        if not value.isfinite().all():
            raise UserError(f"{path}: {name} has values that are not finite")
        if last_part(name) == "running_var" and value.min() < 0:
            raise UserError(f"{path}: {name} has negative values, which no variance has")
    return {name: matched.get(name, own[name]) for name in own}


def without_prefixes(weights: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """`weights` without what wrappers put before their names, as long as that leads to more of `names`."""
    known = set(names)
    while True:
        bare = {name: name.partition(".")[2] for name in weights if name.startswith(PREFIXES)}
        if not bare or len(known & set(bare.values())) < len(known & set(weights)):
            return weights
        others = {name: value for name, value in weights.items() if name not in bare}
        if len(others.keys() | set(bare.values())) < len(weights):
            heads = sorted({name.partition(".")[0] for name in weights})
            raise UserError(f"a file of weights holds several networks ({', '.join(heads)}); save one of them alone")
        weights = others | {short: weights[name] for name, short in bare.items()}


def last_part(name: str) -> str:
    return name.rpartition(".")[2]


def by_numbers(name: str) -> list[tuple[int, str]]:
    """Sorts 2.weight before 10.weight."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def shaped(name: str | None, weights: Mapping[str, Tensor]) -> str:
    return "nothing" if name is None else f"{name} {tuple(weights[name].shape)}"


def described(name: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    if name not in weights:
        return f"it lacks {shaped(name, own)}"
    return f"the backbone has {shaped(name, own)}, the file {shaped(name, weights)}"


def zero_share(weights: Mapping[str, Tensor]) -> float:
    """Percent of the weights of convolutions and linear layers that are 0."""
    parts = [value for name, value in weights.items() if last_part(name) == "weight" and value.dim() > 1]
    return 100 * sum(int((part == 0).sum()) for part in parts) / max(1, sum(part.numel() for part in parts))


def load_initial(network: nn.Module, path: Path) -> None:
    """Start `network` from the weights in `path`, in place.

    A head for another number of classes is left out: tensors whose shape differs in its first dimension only, of the
    network's last layer. UserError where the rest does not fit.
    """
    own = network.state_dict()
    weights = without_prefixes(read_weights(path), own)
    head = next((name for name in reversed(own) if name.endswith(".weight") and own[name].dim() > 1), "")
    for name in (head, head.replace(".weight", ".bias")):
        given = weights.get(name)
        if given is not None and name in own and own[name].shape[1:] == given.shape[1:]:
            weights[name] = given if own[name].shape == given.shape else own[name]
    network.load_state_dict(match_weights(network, weights, path))
