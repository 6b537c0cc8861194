"""A slow network on one machine: TCP ports that forward everything, delayed and at a limited rate. Needs no root.

Each party dials its peer through a port of its own. What flows one way, over both ports and both ways a connection can
be opened, shares one `Lane`: a rate and a delay, as on a cable. Only addresses of this machine are listened on.
"""

import asyncio
import contextlib
import selectors
import threading
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from relinearize.private_inference.cost.network import Network

T = TypeVar("T")

HOST = "127.0.0.1"
CHUNK = 64 * 1024  # bytes read at once: half a second at 1 Mbit/s
AHEAD_SECONDS = 0.05  # of data may wait for the rate before reading stops, so that senders feel the limit


class Lane:
    """One direction. `passed` counts the bytes, all connections together."""

    def __init__(self, network: Network) -> None:
        self.free = 0.0  # when all data so far has been sent
        self.passed = 0
        self.become(network)

    def become(self, network: Network) -> None:
        self.delay, self.rate = network.one_way_seconds, network.bytes_per_second

    def departure(self, now: float, size: int) -> float:
        """When the last of `size` bytes that arrive at `now` has been sent."""
        self.passed += size
        self.free = max(now, self.free) + size / self.rate
        return self.free


class DelayProxy:
    """A context manager; within it `ports[rank]` is where party `rank` is reached by its peer.

    Runs in a thread of its own. Leaving closes all connections.
    """

    def __init__(self, network: Network, targets: Sequence[int]) -> None:
        """`targets`: the ports the two parties listen on."""
        self.targets = tuple(targets)
        self.lanes = [Lane(network), Lane(network)]  # by the party that sends
        self.ports: list[int] = []
        self._connections: set[asyncio.Task] = set()
        # select() takes microseconds; epoll rounds a LAN's half millisecond up to a whole one.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="delay proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._servers = self._call(self._listen())
        except BaseException:
            self._end()
            raise
        self.ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._end()

    def become(self, network: Network) -> None:
        """Emulate another network from now on. Call it while nothing is being sent."""
        for lane in self.lanes:
            lane.become(network)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> list[asyncio.Server]:
        return [await self._port(owner) for owner in range(len(self.targets))]

    async def _port(self, owner: int) -> asyncio.Server:
        """A port at which party `owner` is reached; the other party dials it."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            self._connections.add(task)
            # asyncio's own callback would print a traceback for a cancelled task
            with contextlib.suppress(asyncio.CancelledError):
                await self._connect(owner, reader, writer)
            self._connections.discard(task)

        return await asyncio.start_server(accept, HOST, 0, limit=CHUNK)

    async def _connect(self, owner: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer_reader, peer_writer = await asyncio.open_connection(HOST, self.targets[owner], limit=CHUNK)
        except OSError:  # not listening yet, or gone: the dialing party sees a closed connection and tries again
            writer.close()
            return
        there = asyncio.create_task(passed_on(reader, peer_writer, self.lanes[1 - owner]))
        back = asyncio.create_task(passed_on(peer_reader, writer, self.lanes[owner]))
        try:
            await asyncio.gather(there, back)
        finally:
            for task in (there, back):
                task.cancel()
            for end in (writer, peer_writer):
                end.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        waiting = list(self._connections)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: Lane) -> None:
    """Forward until the sender ends or either side breaks; order is kept."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            arrival, chunk = await under_way.get()
            if (early := arrival - loop.time()) > 0:
                await asyncio.sleep(early)
            if not chunk:
                break
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    delivery = asyncio.create_task(deliver())
    try:
        with contextlib.suppress(ConnectionError):
            while True:
                chunk = await reader.read(CHUNK)
                now = loop.time()
                departure = lane.departure(now, len(chunk))
                under_way.put_nowait((departure + lane.delay, chunk))
                if not chunk:
                    break
                if departure - now > AHEAD_SECONDS:
                    await asyncio.sleep(departure - now - AHEAD_SECONDS)
            await delivery
    finally:
        delivery.cancel()
