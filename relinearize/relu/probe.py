"""See every ReLU call of a network by running a copy of it once on random input."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.copies import copied
from relinearize.relu.nonlinearities import GATES, RELU_FUNCTIONS, is_nonlinear, name_of

PROBE_BATCH = 5  # an axis of two or three, say of streams, is not taken for it
LEAVES_TORCH = {Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__array__}


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
    other_relus_in_training: bool = False

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
    network = copied(model).eval()
    sample = _random_input(model, input_size)
    seen, operators, outputs = _watched(network, sample, input_size)
    if operators.others:
        raise UserError(
            f"the network has activations that are no ReLU and cannot be linearized: {listed(operators.others)}; "
            "replace them by nn.ReLU first"
        )
    if len(operators.relus) > len(seen.calls):
        raise UserError(
            f"the network runs {len(operators.relus)} ReLUs, of which only {len(seen.calls)} are calls of nn.ReLU or "
            f"F.relu; in {listed(operators.relus)}: write the others as nn.ReLU, outside of TorchScript"
        )
    if not seen.calls:
        raise UserError("the network has no ReLU, so there is nothing to linearize")
    for call in seen.calls:
        if call.shape is None:
            raise UserError(
                f"{describe([call])} is not called with one row per image, so its positions cannot be counted per image"
            )
    if not _all_close(_outputs(network, sample), outputs):
        why = f": {listed(operators.random)}" if operators.random else ""
        raise UserError(f"the network's outputs differ from run to run on one input in eval mode{why}")
    if operators.gates:
        warnings.warn(f"not ReLUs, neither linearized nor counted: {listed(operators.gates)}", stacklevel=3)
    idle = {name for name, module in network.named_modules() if isinstance(module, nn.ReLU)}
    idle -= {call.module for call in seen.calls}
    if idle:
        warnings.warn(
            f"nn.ReLU modules that do not run on a random image are neither linearized nor counted: "
            f"{listed(sorted(idle))}",
            stacklevel=3,
        )
    found = Probe(seen.calls, sample, outputs, seen.owners)
    found.other_relus_in_training = _warn_of_other_relus_in_training(network, found, input_size)
    return found


def does_the_same(network: nn.Module, found: Probe, traced: bool) -> bool:
    """Whether `network` runs one site for each probed call, in order, and gives the probed outputs up to rounding.

    Compared in eval mode, on a copy. A site that does not run is one that the model reaches by another way than its
    attribute, say from a list that it keeps. Nor does one where the input of a site is written over afterwards, which
    gradients and scores read later: a trace makes + of +=, and UserError is raised for what is `traced`.
    """
    network = copied(network).eval()
    ran: list[tuple[int, str, Tensor, int]] = []  # index, name, input, and how often that was written until then

    def look(name: str, site: MaskedReLU, given: tuple[Tensor, ...], _: Tensor) -> None:
        ran.append((site.index, name, given[0], given[0]._version))

    for name, module in network.named_modules():
        if isinstance(module, MaskedReLU):
            module.register_forward_hook(partial(look, name))
    outputs = _outputs(network, found.input)
    if [one[0] for one in ran] != list(range(len(found.calls))) or not _all_close(outputs, found.outputs):
        return False
    written = [name for _, name, given, version in ran if given._version > version]
    if written and traced:
        raise UserError(
            f"the input of {listed(written)} is written over after its ReLU; write x = x + ... instead of x.add_(...)"
        )
    return not written


def trains_the_same(network: nn.Module, model: nn.Module, found: Probe) -> bool:
    """Whether a step in train mode gives both the same outputs, gradients and buffers, up to rounding.

    Compared on copies, with the same random numbers. True, too, where that says nothing: the model's own outputs differ
    from pass to pass, or it runs other ReLUs in training than in inference (`probe` warns of that).
    """
    if found.other_relus_in_training:
        return True
    names = [dict(each.named_buffers()) | dict(each.named_parameters()) for each in (network, model)]
    common = sorted(names[0].keys() & names[1].keys())
    ours, theirs = (_after_training(each, found, common) for each in (network, model))
    return _all_close(ours, theirs) or not _all_close(_after_training(model, found, common), theirs)


def _after_training(model: nn.Module, found: Probe, names: Sequence[str]) -> list[Any]:
    """Outputs, and of these buffers and parameters the values and the gradients."""
    network = copied(model).train()
    with _fixed_random_state(found.device), torch.enable_grad():
        try:
            outputs = _leaves(network(found.input.clone()))
            learnt = [output for output in outputs if isinstance(output, Tensor) and output.requires_grad]
            if learnt:
                sum(output.float().square().sum() for output in learnt).backward()
        except Exception as error:  # e.g. batch norm on 1 x 1 maps
            outputs = [type(error).__name__]
    tensors = dict(network.named_buffers()) | dict(network.named_parameters())
    kept = [output.detach() if isinstance(output, Tensor) else output for output in outputs]
    return kept + [each for name in names for each in (tensors[name].detach(), tensors[name].grad)]


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
    generator = torch.Generator("cpu").manual_seed(0)
    sample = torch.randn((PROBE_BATCH, *input_size), generator=generator, device="cpu")
    return sample.to(device=example.device, dtype=example.dtype)


def _all_close(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    return len(ours) == len(theirs) and all(_close(*pair) for pair in zip(ours, theirs, strict=True))


def _close(ours: Any, theirs: Any) -> bool:
    if not isinstance(theirs, Tensor):
        return not isinstance(ours, Tensor) and ours == theirs
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not theirs.is_floating_point():
        return torch.equal(ours, theirs)
    scale = float(theirs.abs().nan_to_num(0, 0, 0).max()) if theirs.numel() else 0.0
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


class _Calls(TorchFunctionMode):
    """Notes ReLU calls on activations while a network runs; who is running, `operators` knows."""

    def __init__(self, operators: "_Operators") -> None:
        super().__init__()
        self.operators = operators
        self.calls: list[Call] = []
        self.owners: set[str] = set()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = args[0] if args else kwargs.get("input")
        if function in LEAVES_TORCH and given.dim() > 0 and self.operators.is_activation(given):
            path, _ = self.operators.running[-1]
            self.operators.others.append(f"{path or 'the network itself'} leaves torch by {function.__name__}")
        if function in RELU_FUNCTIONS and self.operators.is_activation(given):
            path, module = self.operators.running[-1]
            is_module = type(module) is nn.ReLU
            shape = tuple(given.shape[1:]) if given.dim() > 1 and given.shape[0] == PROBE_BATCH else None
            self.calls.append(Call(path, is_module, "nn.ReLU" if is_module else function.__name__, shape))
            self.owners.update(name for name, _ in self.operators.running)
        return function(*args, **kwargs)


class _Operators(TorchDispatchMode):
    """Notes the operators that really run, whoever calls them: non-linear ones of activations, and ReLUs.

    `running`: the modules that run, the innermost last. An activation is a tensor whose memory an operator wrote that
    read the image or another activation.
    """

    def __init__(self, running: list[tuple[str, nn.Module]], image: Tensor) -> None:
        super().__init__()
        self.running = running
        self.relus: list[str] = []
        self.others: list[str] = []
        self.gates: list[str] = []
        self.random: list[str] = []
        self.norms: set[int] = set()
        self.activations = {_memory(image): image}  # tensors are kept, so that no address is used twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # true would import the compiler, which takes seconds

    def is_activation(self, tensor: Tensor) -> bool:
        return _memory(tensor) in self.activations

    def __torch_dispatch__(
        self, operator: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        activations = [tensor for tensor in given if self.is_activation(tensor)]
        path, module = self.running[-1]
        where = path or "the network itself"
        if torch.Tag.nondeterministic_seeded in operator.tags:
            self.random.append(f"{where} uses {name_of(operator)}")
        floating = [tensor for tensor in activations if tensor.is_floating_point() and tensor.dim() > 0]
        if name_of(operator) == "relu" and floating:
            self.relus.append(where)
        elif name_of(operator) == "clamp_min" and _memory(args[0]) in self.norms:
            self.gates.append(f"{where} is using a norm")  # F.normalize
        elif floating and is_nonlinear(operator, args, len(floating)):
            noted = self.gates if name_of(operator) in GATES else self.others
            of_torch = type(module).__module__.startswith("torch.nn.modules.activation")
            noted.append(f"{where} is {type(module).__name__ if of_torch else f'using {name_of(operator)}'}")
        result = operator(*args, **kwargs)
        if activations and not re.match("new_|.*_like$", name_of(operator)):  # these read a tensor's shape alone
            written = [tensor for tensor in pytree.tree_leaves(result) if isinstance(tensor, Tensor)]
            if operator._schema.is_mutable:
                written += given[:1]
            self.activations.update((_memory(tensor), tensor) for tensor in written)
            if name_of(operator) == "linalg_vector_norm":
                self.norms.update(map(_memory, written))
        return result


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _watched(network: nn.Module, sample: Tensor, input_size: Sequence[int]) -> tuple[_Calls, _Operators, list[Any]]:
    running = [("", network)]
    image = sample.clone()
    operators = _Operators(running, image)
    calls = _Calls(operators)
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks
        handles.append(
            module.register_forward_pre_hook(lambda module, _, name=name: running.append((name, module)), prepend=True)
        )
        handles.append(module.register_forward_hook(lambda *_: (running.pop(), None)[1]))
    try:
        with torch.no_grad(), calls, operators:
            outputs = network(image)
    except Exception as error:  # this is the user's code: anything can be raised there
        reason = str(error).strip().split("\n")[0]
        size = "x".join(str(length) for length in input_size)
        raise UserError(f"the network does not run on input of {size}: {reason or type(error).__name__}") from error
    finally:
        for handle in handles:
            handle.remove()
    return calls, operators, _leaves(outputs)


def _outputs(network: nn.Module, sample: Tensor) -> list[Any]:
    with torch.no_grad():
        return _leaves(network(sample.clone()))


def _leaves(outputs: Any) -> list[Any]:
    return pytree.tree_leaves(vars(outputs) if is_dataclass(outputs) else outputs)


@contextmanager
def _fixed_random_state(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _warn_of_other_relus_in_training(network: nn.Module, found: Probe, input_size: Sequence[int]) -> bool:
    """Whether training runs more or fewer ReLUs than inference (auxiliary heads); only inference is linearized."""
    with _fixed_random_state(found.device):
        try:
            calls = _watched(network.train(), found.input, input_size)[0].calls
        except UserError:
            return False  # e.g. batch norm on 1 x 1 maps: nothing to compare
    if len(calls) == len(found.calls):
        return False
    seen = {call.module for call in found.calls}
    extra = [call for call in calls if call.module not in seen]
    warnings.warn(
        f"in training mode the network has {len(calls)} ReLU calls, in inference {len(found.calls)}: only those of "
        f"inference are linearized and counted (training only: {describe(extra) or 'none'})",
        stacklevel=4,
    )
    return True
