"""The slow network: everything arrives, in order, and not before it could."""

import hashlib
import socket
import threading
import time

import pytest

from relinearize.private_inference.cost.network import NETWORKS, Network
from relinearize.private_inference.engine.proxy import HOST, DelayProxy
from relinearize.private_inference.engine.two_parties import free_ports


class Echo:
    """A server that sends back what it gets."""

    def __init__(self):
        self.socket = socket.create_server((HOST, 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            while content := connection.recv(1 << 16):
                connection.sendall(content)


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.socket.close()


def connected(proxy, owner):
    return socket.create_connection((HOST, proxy.ports[owner]), timeout=60)


def sent_and_back(connection, content):
    """Seconds and what came back; sends and receives at once, as buffers are small."""
    began = time.monotonic()
    threading.Thread(target=connection.sendall, args=(content,), daemon=True).start()
    back = bytearray()
    while len(back) < len(content):
        part = connection.recv(1 << 16)
        assert part, "closed early"
        back += part
    return time.monotonic() - began, bytes(back)


def test_bytes_arrive_whole_and_in_order(echo):
    content = b"".join(hashlib.sha256(str(index).encode()).digest() for index in range(100_000))
    with DelayProxy(Network("own", 4, None), [echo.port, echo.port]) as proxy:
        with connected(proxy, 0) as one:
            assert sent_and_back(one, content)[1] == content
        assert [lane.passed for lane in proxy.lanes] == [len(content)] * 2


def test_a_message_takes_half_a_round_trip_each_way(echo):
    with DelayProxy(Network("own", 60, None), [echo.port, echo.port]) as proxy, connected(proxy, 1) as one:
        seconds = [sent_and_back(one, b"x")[0] for _ in range(5)]
        assert min(seconds) >= 0.0599
        assert min(seconds) < 0.09, "far later than asked"
        proxy.become(NETWORKS["loopback"])
        assert min(sent_and_back(one, b"x")[0] for _ in range(5)) < 0.05


def test_the_rate_is_of_each_direction_and_shared_by_connections(echo):
    size = 1_500_000
    with DelayProxy(Network("own", 0, 40), [echo.port, echo.port]) as proxy:  # 5 MB/s
        began = time.monotonic()
        found = []

        def one():
            with connected(proxy, 0) as connection:
                found.append(sent_and_back(connection, bytes(size))[0])

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        both = time.monotonic() - began
    assert len(found) == 2 and both >= 2 * size / 5e6, "two together take twice as long"
    assert both < 2 * 2 * size / 5e6, "there and back go side by side"


def test_who_is_not_there_yet_is_a_closed_connection():
    nobody = free_ports(2)
    with DelayProxy(NETWORKS["wan"], nobody) as proxy, connected(proxy, 0) as one:
        assert one.recv(1) == b""


def test_leaving_closes_everything(echo):
    with DelayProxy(NETWORKS["loopback"], [echo.port, echo.port]) as proxy:
        one = connected(proxy, 0)
        assert sent_and_back(one, b"x")[1] == b"x"
    with one:
        assert one.recv(1) == b""
    with pytest.raises(OSError):
        connected(proxy, 0).close()
    assert not any(thread.name == "delay proxy" for thread in threading.enumerate())


def test_the_end_of_one_direction_is_passed_on():
    """The other may go on."""
    with (
        socket.create_server((HOST, 0)) as server,
        DelayProxy(Network("own", 2, None), [server.getsockname()[1]] * 2) as proxy,
        connected(proxy, 0) as one,
        server.accept()[0] as peer,
    ):
        one.sendall(b"question")
        one.shutdown(socket.SHUT_WR)
        content = b""
        while part := peer.recv(100):
            content += part
        assert content == b"question"
        peer.sendall(b"answer")
        assert one.recv(100) == b"answer"
