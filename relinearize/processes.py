"""Sums over the processes that train one network together, each on its share of every batch.

Gradients are averaged where the network is trained (training/devices.py), so weights are the same in all processes.
What each of them sums on its own (metrics, mismatches, batch-norm statistics) is combined here. With a single process,
the usual case, nothing is done.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


def process_count() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_rank() -> int:
    """From 0; the process of rank 0 is the one that leaves results."""
    return distributed.get_rank() if process_count() > 1 else 0


def sum_over_processes(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over the processes."""
    if process_count() > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)


def sum_in_first(tensors: Iterable[Tensor]) -> None:
    """The sum in the first process, zero in the others: a checkpoint of the first one then holds all."""
    if process_count() > 1:
        tensors = list(tensors)
        sum_over_processes(tensors)
        zero_unless_first(tensors)


def zero_unless_first(tensors: Iterable[Tensor]) -> None:
    """Zero the tensors in all but the first process: sums read from its checkpoint would be counted again."""
    if process_rank() > 0:
        for tensor in tensors:
            tensor.zero_()


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by that of the first process."""
    if process_count() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def minimum_over_processes(tensor: Tensor) -> Tensor:
    """The element-wise minimum, in place."""
    if process_count() > 1:
        distributed.all_reduce(tensor, distributed.ReduceOp.MIN)
    return tensor


@torch.no_grad()
def average_batch_norms(network: nn.Module) -> None:
    """Replace the running statistics of each batch norm by their mean over the processes."""
    if process_count() == 1:
        return
    norms = [module for module in network.modules() if getattr(module, "running_mean", None) is not None]
    for statistics in [norm.running_mean for norm in norms] + [norm.running_var for norm in norms]:
        distributed.all_reduce(statistics)
        statistics /= process_count()
