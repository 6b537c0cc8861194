"""Two parties of CrypTen over one connection, in place of torch.distributed.

Through a connection of our own everything can pass the delay proxy, and bytes and messages are counted where they are
sent. A message is one tensor's worth of 64-bit integers, or several that go together; both sides know the shapes.
"""

import contextlib
import importlib.util
import queue
import secrets
import socket
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed import ReduceOp

from relinearize.private_inference.engine.job import SERVER, Job
from relinearize.private_inference.engine.sockets import dialled, listening

# CrypTen 0.4.1, of 2022, imports this module of torch, which has moved since, for ONNX, which is not used here.
_REGISTRATION = "torch.onnx._internal.registration"
if importlib.util.find_spec(_REGISTRATION) is None:
    sys.modules[_REGISTRATION] = importlib.import_module("torch.onnx._internal.torchscript_exporter.registration")

import crypten  # noqa: E402

RETRY_SECONDS = 0.05
TOKEN_SECONDS = 5  # that someone who has connected may take to send it
DONE = SimpleNamespace(wait=lambda: None)  # what `isend` and `irecv` return
COMBINE = {ReduceOp.SUM: torch.add, ReduceOp.BXOR: torch.bitwise_xor}


def connected(job: Job, rank: int) -> socket.socket:
    """The server listens, the client dials, both until `job.timeout` is over.

    The client sends the job's token, and dials until the server itself answers: a proxy accepts before the server
    listens, and closes again. Who connects without the token is turned away unanswered, and the next is let in.
    """
    deadline = time.monotonic() + job.timeout
    connection = (_accepted if rank == SERVER else _dialled)(job.sockets[rank][SERVER], job, deadline)
    connection.settimeout(job.timeout)
    return connection


def _accepted(path: str, job: Job, deadline: float) -> socket.socket:
    with listening(path) as door:
        while True:
            door.settimeout(max(0.0, deadline - time.monotonic()))
            connection, _ = door.accept()
            connection.settimeout(TOKEN_SECONDS)
            with contextlib.suppress(OSError):
                if secrets.compare_digest(connection.recv(len(job.token), socket.MSG_WAITALL), job.token.encode()):
                    connection.sendall(b"\0")
                    return connection
            connection.close()


def _dialled(path: str, job: Job, deadline: float) -> socket.socket:
    while True:
        try:
            connection = dialled(path, job.timeout)
            connection.sendall(job.token.encode())
            if not connection.recv(1):
                raise ConnectionError("the other party hung up")
            return connection
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


class Link:
    """Sends in a thread of its own, so that both parties may send much at once. `bytes`, `messages`: sent so far."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.bytes = self.messages = 0
        self._sending: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._send, name="sender", daemon=True).start()

    def _send(self) -> None:
        while True:
            self.connection.sendall(self._sending.get())

    def send(self, *tensors: torch.Tensor) -> None:
        """One message."""
        content = b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)
        self.bytes += len(content)
        self.messages += 1
        self._sending.put(content)

    def receive(self, *likes: torch.Tensor) -> list[torch.Tensor]:
        """One message of tensors in the shapes of `likes`."""
        content = memoryview(bytearray(8 * sum(like.nelement() for like in likes)))
        filled = 0
        while filled < len(content):
            got = self.connection.recv_into(content[filled:])
            if not got:
                raise ConnectionError("the other party is gone")
            filled += got
        parts = torch.frombuffer(content, dtype=torch.int64).split([like.nelement() for like in likes])
        return [part.view(like.shape) for part, like in zip(parts, likes, strict=True)]


class LinkCommunicator(crypten.communicator.Communicator):
    """What CrypTen needs of its communicator for two parties. `serve` makes CrypTen use it."""

    BYTES_PER_ELEMENT = 8

    def __init__(self, link: Link, rank: int) -> None:
        self.link, self.rank = link, rank
        self.reset_communication_stats()

    def serve(self) -> None:
        """Call it before CrypTen's `init`, which then starts nothing of torch.distributed."""
        serving: list[LinkCommunicator] = []
        crypten.communicator.DistributedCommunicator = SimpleNamespace(
            is_initialized=lambda: bool(serving),
            initialize=lambda *_, **__: serving.append(self),
            get=lambda: self,
        )

    def get_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return 2

    def isend(self, tensor: torch.Tensor, dst: int) -> SimpleNamespace:
        self.link.send(tensor)
        return DONE

    def irecv(self, tensor: torch.Tensor, src: int | None = None) -> SimpleNamespace:
        tensor.copy_(self.link.receive(tensor)[0])
        return DONE

    def broadcast(self, tensor: torch.Tensor, src: int) -> torch.Tensor:
        if src == self.rank:
            self.link.send(tensor)
            return tensor
        return self.link.receive(tensor)[0]

    def all_reduce(self, input: Any, op: ReduceOp = ReduceOp.SUM, batched: bool = False) -> Any:
        """Sum or exclusive or of both parties' tensors (a list of them, if `batched`), one message each way."""
        self.link.send(*(input if batched else [input]))
        return self.reduce(input, self.rank, op, batched)

    def reduce(self, input: Any, dst: int, op: ReduceOp = ReduceOp.SUM, batched: bool = False) -> Any:
        """As `all_reduce`, for `dst` alone; the other gets None and sends one message."""
        own = input if batched else [input]
        if dst != self.rank:
            self.link.send(*own)
            return None
        both = [COMBINE[op](one, other) for one, other in zip(own, self.link.receive(*own), strict=True)]
        return both if batched else both[0]

    def barrier(self) -> None:
        self.all_reduce(torch.zeros(1, dtype=torch.int64))
