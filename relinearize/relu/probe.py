"""See every ReLU call of a network by running a copy of it once on random input."""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from relinearize.errors import UserError

PROBE_BATCH = 2

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


@dataclass(frozen=True)
class Call:
    """One ReLU call: path of the innermost module that runs it, its class, the shape without batch, how it is made."""

    module: str
    is_module: bool
    function: str
    shape: tuple[int, ...]


@dataclass
class Probe:
    """What one run in eval mode showed. `input` is the random batch, `outputs` are what the model made of it."""

    calls: list[Call]
    input: Tensor
    outputs: list[Any]
    training_calls: list[Call] | None = None
    owners: set[str] = field(default_factory=set)

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
    calls, others, owners, outputs = _watched(network, sample, input_size)
    if others:
        raise UserError(
            f"the network has activations that are no ReLU and cannot be linearized: {_listed(others)}; "
            "replace them by nn.ReLU first"
        )
    if not calls:
        raise UserError("the network has no ReLU, so there is nothing to linearize")
    for call in calls:
        if call.shape is None:
            raise UserError(
                f"{describe([call])} is not called with one row per image, so its positions cannot be counted per image"
            )
    found = Probe(calls, sample, outputs, owners=owners)
    _compare_with_training(network, found, input_size)
    return found


def same_outputs(network: nn.Module, found: Probe) -> bool:
    """Whether `network` gives the probed outputs in eval mode, up to rounding. Leaves `network` as it was."""
    copied = copy.deepcopy(network).eval()
    with torch.no_grad():
        outputs = pytree.tree_leaves(copied(found.input.clone()))
    if len(outputs) != len(found.outputs):
        return False
    return all(_close(ours, theirs) for ours, theirs in zip(outputs, found.outputs, strict=True))


def describe(calls: Sequence[Call]) -> str:
    """The calls in words: `layer1.relu (nn.ReLU)`, `layer1 (F.relu)`."""
    return _listed([f"{call.module or 'the network itself'} ({call.function})" for call in calls])


def _listed(items: Sequence[str], shown: int = 6) -> str:
    distinct = list(dict.fromkeys(items))
    more = f" and {len(distinct) - shown} more" if len(distinct) > shown else ""
    return ", ".join(distinct[:shown]) + more


def _random_input(model: nn.Module, input_size: Sequence[int]) -> Tensor:
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
        elif function in OTHER_ACTIVATIONS:
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor) and given.is_floating_point():
                self.others.append(f"{path or 'the network itself'} is {_kind(module, OTHER_ACTIVATIONS[function])}")
        return function(*args, **kwargs)


def _kind(module: nn.Module | None, activation: str) -> str:
    of_torch = module is not None and type(module).__module__.startswith("torch.nn.modules.activation")
    return type(module).__name__ if of_torch else f"using {activation}"


def _watched(
    network: nn.Module, sample: Tensor, input_size: Sequence[int]
) -> tuple[list[Call], list[str], set[str], list[Any]]:
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
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        size = "x".join(str(length) for length in input_size)
        raise UserError(f"the network does not run on input of {size}: {reason or type(error).__name__}") from error
    finally:
        for handle in handles:
            handle.remove()
    return watch.calls, watch.others, watch.owners, pytree.tree_leaves(outputs)


def _compare_with_training(network: nn.Module, found: Probe, input_size: Sequence[int]) -> None:
    """Warn where training runs other ReLUs than inference (auxiliary heads): only inference is linearized."""
    devices = [found.device] if found.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            calls = _watched(network.train(), found.input, input_size)[0]
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
