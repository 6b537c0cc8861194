"""A slow network on one machine: sockets that forward everything, delayed and at a limited rate. Needs no root.

Each party dials its peer through a socket of its own. What flows one way, over both sockets and both ways a connection
can be opened, shares one `Lane`: a rate and a delay, as on a cable.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from relinearize.private_inference.cost.network import Network
from relinearize.private_inference.engine.sockets import dialled, listening

CHUNK = 64 * 1024  # bytes read at once: half a second at 1 Mbit/s
AHEAD_SECONDS = 0.05  # of data may wait for the rate before reading stops, so that senders feel the limit


class Lane:
    """One direction, of all connections together."""

    def __init__(self, network: Network) -> None:
        self.free = 0.0  # when all data so far has been sent
        self.lock = threading.Lock()
        self.become(network)

    def become(self, network: Network) -> None:
        self.delay, self.rate = network.one_way_seconds, network.bytes_per_second

    def departure(self, now: float, size: int) -> float:
        """When the last of `size` bytes that arrive at `now` has been sent."""
        with self.lock:
            self.free = max(now, self.free) + size / self.rate
            return self.free


class DelayProxy:
    """A context manager; within it `paths[rank]` is where party `rank` is reached by its peer.

    A thread reads, and one writes, for each direction of a connection. Leaving closes all connections.
    """

    def __init__(self, network: Network, targets: Sequence[Path]) -> None:
        """`targets`: the sockets the two parties listen at; the proxy's own are beside them."""
        self.targets = tuple(targets)
        self.paths = [target.with_name(f"{target.name}.proxy") for target in targets]
        self.lanes = [Lane(network), Lane(network)]  # by the party that sends
        self._sockets: list[socket.socket] = []  # those that listen first
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self._sockets = [listening(path) for path in self.paths]
        for owner, one in enumerate(self._sockets[:]):
            self._start(self._accept, owner, one)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        count = len(self.targets)  # once nothing is accepted any more, no connection and no thread is added
        for sockets, threads in ((slice(count), slice(count)), (slice(count, None), slice(count, None))):
            for one in self._sockets[sockets]:
                with contextlib.suppress(OSError):  # its other end is gone
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            for thread in self._threads[threads]:
                thread.join()

    def become(self, network: Network) -> None:
        """Emulate another network from now on. Call it while nothing is being sent."""
        for lane in self.lanes:
            lane.become(network)

    def _start(self, work: Callable[..., None], *given: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=given, name="delay proxy", daemon=True))
        self._threads[-1].start()

    def _accept(self, owner: int, door: socket.socket) -> None:
        """Connect those who dial party `owner` with it."""
        while True:
            try:
                dialing, _ = door.accept()
            except OSError:
                return
            try:
                owning = dialled(self.targets[owner])
            except OSError:  # not listening yet, or gone: the dialing party sees a closed connection and tries again
                dialing.close()
                continue
            for source, sink, sender in ((dialing, owning, 1 - owner), (owning, dialing, owner)):
                self._sockets.append(source)
                under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                self._start(self._read, source, self.lanes[sender], under_way)
                self._start(self._write, sink, under_way)

    def _read(self, source: socket.socket, lane: Lane, under_way: queue.SimpleQueue) -> None:
        """Until the sender ends, which is told as a chunk of nothing."""
        chunk = b"x"
        while chunk:
            try:
                chunk = source.recv(CHUNK)
            except OSError:
                chunk = b""
            now = time.monotonic()
            departure = lane.departure(now, len(chunk))
            under_way.put((departure + lane.delay, chunk))
            self._wait_until(departure - AHEAD_SECONDS)

    def _write(self, sink: socket.socket, under_way: queue.SimpleQueue) -> None:
        with contextlib.suppress(OSError):  # the receiver is gone
            while True:
                arrival, chunk = under_way.get()
                self._wait_until(arrival)
                if not chunk:
                    return sink.shutdown(socket.SHUT_WR)
                sink.sendall(chunk)

    def _wait_until(self, moment: float) -> None:
        """Or until the proxy is closed."""
        if (early := moment - time.monotonic()) > 0:
            self._closed.wait(early)
