"""Training on several devices (trainer.devices=N): the further processes of one fit, started for it and gone after it.

The run stays with the process that was started. It alone holds locks, leaves artifacts and checkpoints, logs, prints
and tests; in the training it is rank 0. Each peer builds the stage once more and trains it on its share of every batch.
docs/architecture.md says why Lightning's launchers do not do.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import distributed
from torch.multiprocessing import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from relinearize.errors import UserError

# A process that uses CUDA or has threads cannot be forked. Peers are forked from a server that has imported what they
# need, and nothing else; it is started with a run's first peer and ends with the run's process.
START_METHOD = "forkserver"
multiprocessing.set_forkserver_preload(["relinearize.runs.pipeline", "relinearize.training.lightning"])
HOST = "127.0.0.1"
# What ends a run is sent to all of its processes (Ctrl-C, Slurm). The first one handles it, and ends the others.
LEFT_TO_THE_FIRST = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

# Called in a peer with its rank and a function that waits for all others: the task calls it once it is ready to train.
Task = Callable[[int, Callable[[], None]], None]


@contextlib.contextmanager
def peers(count: int, accelerator: str, task: Task) -> Iterator[None]:
    """While the block trains, `count` - 1 further processes do `task`; nothing at all with a count of 1.

    On the CPU the processes share the threads of this one. Raises RuntimeError where a peer ends before its time, and
    the peer's UserError where it had one.
    """
    if count == 1:
        yield
        return
    store = distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    before = torch.get_num_threads()
    threads = before if accelerator == "cuda" else max(1, before // count)
    backend = "nccl" if accelerator == "cuda" else "gloo"
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_FIRST)  # the server and its children inherit it
    try:
        arguments = (task, count, store.port, backend, threads, multiprocessing.get_start_method())
        team = start_processes(take_part, arguments, count - 1, join=False, start_method=START_METHOD)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        wait_for_peers(team, store, "ready")
        try:
            meet(store, 0, count, backend, threads)
            yield
        except UserError:
            raise
        except Exception:  # a lost connection is what one sees of a peer's end: say that instead
            raise_if_ended(team, store, patience=5)
            raise
        wait_for_peers(team, store, "done")
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        torch.set_num_threads(before)
        for process in team.processes:
            process.kill()
            process.join()


def meet(store: distributed.TCPStore, rank: int, count: int, backend: str, threads: int) -> None:
    """Wait for all processes; from then on they can exchange tensors."""
    torch.set_num_threads(threads)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)


def wait_for_peers(team: ProcessContext, store: distributed.TCPStore, word: str) -> None:
    """Until each peer has said `word`; raises if one has ended instead."""
    while not store.check([f"{word} {index}" for index in range(len(team.processes))]):
        raise_if_ended(team, store, patience=0.02)


def raise_if_ended(team: ProcessContext, store: distributed.TCPStore, patience: float) -> None:
    """Raise what a peer ended with, if one does within `patience` seconds."""
    try:
        team.join(patience, grace_period=1)
    except (ProcessExitedException, ProcessRaisedException) as error:
        if store.check(["refusal"]):
            raise UserError(store.get("refusal").decode()) from None
        raise RuntimeError(
            f"process {error.error_index + 2} of {len(team.processes) + 1} of the training ended before its time "
            f"(exit status {team.processes[error.error_index].exitcode})"
        ) from error


def take_part(index: int, task: Task, count: int, port: int, backend: str, threads: int, start_method: str) -> None:
    """What a peer does from its start to its end."""
    threading.Thread(target=end_with_the_first, daemon=True).start()
    # It would be that of the peer itself; workers would then be children of a server and not see that the peer is gone.
    multiprocessing.set_start_method(start_method, force=True)
    warnings.simplefilter("ignore")  # the first process has shown them
    store, rank = distributed.TCPStore(HOST, port, is_master=False), index + 1
    if backend == "nccl":
        torch.cuda.set_device(rank)

    def ready() -> None:
        store.set(f"ready {index}", "")
        meet(store, rank, count, backend, threads)

    try:
        task(rank, ready)
    except UserError as error:
        store.set("refusal", str(error))
        store.get("refusal")  # by then it has arrived
        os._exit(1)
    store.set(f"done {index}", "")
    while True:  # others may still be in a sum, and would see a lost connection if this process ended
        time.sleep(60)


def end_with_the_first() -> None:
    """Wait until the first process is gone, however it ended, and go, too."""
    multiprocessing.parent_process().join()
    os._exit(1)
