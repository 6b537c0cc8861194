"""See every ReLU call of a network by running a copy of it once on random input."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.nonlinearities import GATES, OTHER_ACTIVATIONS, RELU_FUNCTIONS

PROBE_BATCH = 2


@dataclass(frozen=True)
class Call:
    """One ReLU call: path of the innermost module that runs it, its class, the shape without batch, how it is made."""

    module: str
    is_module: bool
    function: str
    shape: tuple[int, ...]


@dataclass
class Probe:
    """What one run in eval mode showed: the random `input`, what the model made of it, `owners` of ReLU calls."""

    calls: list[Call]
    input: Tensor
    outputs: list[Any]
    owners: set[str]

    @property
    def device(self) -> torch.device:
        return self.input.device

    @property
    def modules_called_once(self) -> bool:
        """Whether every call is made by an nn.ReLU module of its own, so that swapping modules is enough."""
        return (
            all(call.is_module for call in self.calls)
            and max(Counter(call.module for call in self.calls).values()) == 1
        )


def probe(model: nn.Module, input_size: Sequence[int]) -> Probe:
    """Run a copy of `model` on a batch of random input and note each ReLU call, in order.

    Touches neither the model (weights, statistics, train or eval) nor the global random state. Raises UserError where
    the model does not take the input, has no ReLU, or has activations that are no ReLU.
    """
    network = copy.deepcopy(model).eval()
    sample = _random_input(model, input_size)
    watch, outputs = _watched(network, sample, input_size)
    if watch.others:
        raise UserError(
            f"the network has activations that are no ReLU and cannot be linearized: {listed(watch.others)}; "
            "replace them by nn.ReLU first"
        )
    if not watch.calls:
        raise UserError("the network has no ReLU, so there is nothing to linearize")
    for call in watch.calls:
        if call.shape is None:
            raise UserError(
                f"{describe([call])} is not called with one row per image, so its positions cannot be counted per image"
            )
    if watch.gates:
        warnings.warn(f"not ReLUs, neither linearized nor counted: {listed(watch.gates)}", stacklevel=3)
    found = Probe(watch.calls, sample, outputs, watch.owners)
    _compare_with_training(network, found, input_size)
    return found


def does_the_same(network: nn.Module, found: Probe) -> bool:
    """Whether `network` runs one site for each probed call, in order, and gives the probed outputs up to rounding.

    Compared in eval mode, on a copy. A site that does not run is one that the model reaches by another way than its
    attribute, say from a list that it keeps.
    """
    copied = copy.deepcopy(network).eval()
    ran: list[int] = []
    for module in copied.modules():
        if isinstance(module, MaskedReLU):
            module.register_forward_hook(lambda site, *_: ran.append(site.index))
    with torch.no_grad():
        outputs = pytree.tree_leaves(copied(found.input.clone()))
    if ran != list(range(len(found.calls))) or len(outputs) != len(found.outputs):
        return False
    return all(_close(ours, theirs) for ours, theirs in zip(outputs, found.outputs, strict=True))


def describe(calls: Sequence[Call]) -> str:
    """The calls in words: `layer1.relu (nn.ReLU)`, `layer1 (F.relu)`."""
    return listed([f"{call.module or 'the network itself'} ({call.function})" for call in calls])


def listed(items: Sequence[str], shown: int = 6) -> str:
    """The first few distinct items, and how many more there are."""
    distinct = list(dict.fromkeys(items))
    more = f" and {len(distinct) - shown} more" if len(distinct) > shown else ""
    return ", ".join(distinct[:shown]) + more


def _random_input(model: nn.Module, input_size: Sequence[int]) -> Tensor:
    if not input_size or not all(isinstance(length, int) and length > 0 for length in input_size):
        raise UserError(
            f"input size {tuple(input_size)} is impossible; give channels, height, width such as (3, 32, 32)"
        )
    example = next((weight for weight in model.parameters() if weight.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn((PROBE_BATCH, *input_size), generator=generator)
    return sample.to(device=example.device, dtype=example.dtype)


def _close(ours: Any, theirs: Any) -> bool:
    if not isinstance(theirs, Tensor):
        return not isinstance(ours, Tensor) and ours == theirs
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not theirs.is_floating_point():
        return torch.equal(ours, theirs)
    scale = float(theirs.abs().nan_to_num(0, 0, 0).max()) if theirs.numel() else 0.0
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


class _Watch(TorchFunctionMode):
    """Notes ReLU calls and other activations while a network runs; `path` is the innermost running module."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, nn.Module]] = []
        self.calls: list[Call] = []
        self.others: list[str] = []
        self.gates: list[str] = []
        self.owners: set[str] = set()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        path, module = self.running[-1] if self.running else ("", None)
        if function in RELU_FUNCTIONS:
            given = args[0] if args else kwargs["input"]
            is_module = type(module) is nn.ReLU
            shape = tuple(given.shape[1:]) if given.dim() > 1 and given.shape[0] == PROBE_BATCH else None
            self.calls.append(Call(path, is_module, "nn.ReLU" if is_module else function.__name__, shape))
            self.owners.update(name for name, _ in self.running)
        elif function in OTHER_ACTIVATIONS or function in GATES:
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor) and given.is_floating_point():
                kind = _kind(module, OTHER_ACTIVATIONS.get(function) or GATES[function])
                noted = self.others if function in OTHER_ACTIVATIONS else self.gates
                noted.append(f"{path or 'the network itself'} is {kind}")
        return function(*args, **kwargs)


def _kind(module: nn.Module | None, activation: str) -> str:
    of_torch = module is not None and type(module).__module__.startswith("torch.nn.modules.activation")
    return type(module).__name__ if of_torch else f"using {activation}"


def _watched(network: nn.Module, sample: Tensor, input_size: Sequence[int]) -> tuple[_Watch, list[Any]]:
    watch = _Watch()
    handles = []
    for name, module in network.named_modules():
        handles.append(
            module.register_forward_pre_hook(
                lambda module, _, name=name: watch.running.append((name, module)), prepend=True
            )
        )
        handles.append(module.register_forward_hook(lambda *_: (watch.running.pop(), None)[1]))
    try:
        with torch.no_grad(), watch:
            outputs = network(sample.clone())
    except Exception as error:  # this is the user's code: anything can be raised there
        reason = str(error).strip().split("\n")[0]
        size = "x".join(str(length) for length in input_size)
        raise UserError(f"the network does not run on input of {size}: {reason or type(error).__name__}") from error
    finally:
        for handle in handles:
            handle.remove()
    return watch, pytree.tree_leaves(outputs)


def _compare_with_training(network: nn.Module, found: Probe, input_size: Sequence[int]) -> None:
    """Warn where training runs other ReLUs than inference (auxiliary heads): only inference is linearized."""
    devices = [found.device] if found.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            calls = _watched(network.train(), found.input, input_size)[0].calls
        except UserError:
            return  # e.g. batch norm on 1 x 1 maps: nothing to compare
    seen = {call.module for call in found.calls}
    extra = [call for call in calls if call.module not in seen]
    if len(calls) != len(found.calls):
        warnings.warn(
            f"in training mode the network has {len(calls)} ReLU calls, in inference {len(found.calls)}: only those of "
            f"inference are linearized and counted (training only: {describe(extra) or 'none'})",
            stacklevel=4,
        )
