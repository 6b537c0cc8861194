"""The further processes of a training on several devices (trainer.devices=N): started for one fit, gone after it.

The run stays with the process that was started. It alone holds locks, leaves artifacts and checkpoints, logs, prints
and tests, and in the training it is rank 0. A peer is given a task that builds the stage once more, trains it on its
share of every batch, and ends. So nothing outside of the training knows that there are several.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import distributed

from relinearize.errors import UserError

# A process that uses CUDA or has threads cannot be forked. So peers are forked from a server that has imported what
# they need, and nothing else; it is started with a run's first peer and ends with the run's process.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["relinearize.runs.pipeline"])
HOST = "127.0.0.1"
# What ends a run is sent to all of its processes (Ctrl-C, Slurm). The first one answers, and ends the others.
LEFT_TO_THE_FIRST = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

# Called in a peer with its rank and a function that waits for all others: the task calls it once it is ready to train.
Task = Callable[[int, Callable[[], None]], None]


@dataclass(frozen=True)
class Seat:
    """A process's place in a training, and where it meets the others."""

    rank: int
    count: int
    port: int
    backend: str
    threads: int
    start_method: str  # of the processes that this one starts: workers that read images

    def meet(self, store: distributed.TCPStore | None = None) -> None:
        """Wait for all; from then on they can exchange tensors. `store`: of the first process, which opened it."""
        torch.set_num_threads(self.threads)
        store = store or distributed.TCPStore(HOST, self.port, is_master=False)
        distributed.init_process_group(self.backend, store=store, rank=self.rank, world_size=self.count)


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
    start_method = multiprocessing.get_start_method()
    seats = [Seat(rank, count, store.port, backend, threads, start_method) for rank in range(count)]
    team: list[Peer] = []
    try:
        for seat in seats[1:]:
            team.append(Peer(seat, task))
        for peer in team:
            peer.answer()  # ready
        seats[0].meet(store)
        yield
        for peer in team:
            peer.answer()  # done
    except UserError:
        raise
    except Exception:
        # A lost connection is what one sees of a peer's end: say that instead.
        wait([peer.process.sentinel for peer in team], timeout=5)
        for peer in team:
            if peer.process.exitcode is not None:
                peer.answer()
        raise
    finally:
        leave()
        torch.set_num_threads(before)
        for peer in team:
            peer.end()


class Peer:
    """A further process, as the first one sees it."""

    def __init__(self, seat: Seat, task: Task) -> None:
        self.seat = seat
        self.pipe, theirs = SERVER.Pipe()
        self.process = SERVER.Process(target=take_part, args=(seat, task, theirs), name=f"rank {seat.rank}")
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_FIRST)  # the server and its children inherit it
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()

    def answer(self) -> None:
        """Wait for its next word; raises what it ended with if it has ended instead."""
        wait([self.pipe, self.process.sentinel])
        word: Any = None
        with contextlib.suppress(EOFError):
            word = self.pipe.recv() if self.pipe.poll() else None
        if isinstance(word, UserError):
            raise word
        if word is None:
            self.process.join()
            raise RuntimeError(
                f"process {self.seat.rank + 1} of {self.seat.count} of the training ended before its time "
                f"(exit status {self.process.exitcode}); its error, if it had one, stands above"
            )

    def end(self) -> None:
        """It has nothing left to do, or nobody to do it with."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def take_part(seat: Seat, task: Task, pipe: Connection) -> None:
    """What a peer does from its start to its end."""
    threading.Thread(target=end_with_the_first, daemon=True).start()
    # It would be that of the peer itself; workers would then be children of a server and not see that the peer is gone.
    multiprocessing.set_start_method(seat.start_method, force=True)
    warnings.simplefilter("ignore")  # the first process has said it
    if seat.backend == "nccl":
        torch.cuda.set_device(seat.rank)

    def meet() -> None:
        pipe.send("ready")
        seat.meet()

    try:
        task(seat.rank, meet)
        pipe.send("done")
        pipe.recv()  # nothing: others may still be in a sum, and would see a lost connection if this process went
    except UserError as error:
        pipe.send(error)


def leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def end_with_the_first() -> None:
    """Wait until the first process is gone, however it ended, and go, too."""
    multiprocessing.parent_process().join()
    os._exit(1)
