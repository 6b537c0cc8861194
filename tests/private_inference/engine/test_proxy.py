"""The slow network: everything arrives, in order, and not before it could."""

import hashlib
import os
import socket
import threading
import time
from collections import Counter

import pytest

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import NETWORKS, Network
from relinearize.private_inference.engine.proxy import DelayProxy, Lane
from relinearize.private_inference.engine.sockets import dialled, listening, socket_folder


class Echo:
    """A server that sends back what it gets."""

    def __init__(self, folder):
        self.paths = [folder / "echo", folder / "nobody"]
        self.socket = listening(self.paths[0])
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
def folder():
    with socket_folder() as folder:
        yield folder


@pytest.fixture
def echo(folder):
    server = Echo(folder)
    yield server
    server.socket.close()


def connected(proxy, owner):
    return dialled(proxy.paths[owner], timeout=60)


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


def test_bytes_arrive_whole_and_in_order(echo, monkeypatch):
    passed, departure = Counter(), Lane.departure

    def counted(lane, now, size):
        passed[lane] += size
        return departure(lane, now, size)

    monkeypatch.setattr(Lane, "departure", counted)
    content = b"".join(hashlib.sha256(str(index).encode()).digest() for index in range(100_000))
    with DelayProxy(Network("own", 4, None), echo.paths) as proxy:
        with connected(proxy, 0) as one:
            assert sent_and_back(one, content)[1] == content
        assert [passed[lane] for lane in proxy.lanes] == [len(content)] * 2


def test_a_message_takes_half_a_round_trip_each_way(echo):
    with DelayProxy(Network("own", 500, None), echo.paths) as proxy, connected(proxy, 0) as one:
        seconds = [sent_and_back(one, b"x")[0] for _ in range(2)]
        assert min(seconds) >= 0.4999
        assert min(seconds) < 1.5, "far later than asked"
        proxy.become(NETWORKS["loopback"])
        assert min(sent_and_back(one, b"x")[0] for _ in range(5)) < 0.4999


def test_the_rate_is_of_each_direction_and_shared_by_connections(echo):
    size = 1_500_000
    with DelayProxy(Network("own", 0, 16), echo.paths) as proxy:  # 2 MB/s
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
    assert len(found) == 2 and both >= 2 * size / 2e6, "two together take twice as long"
    assert both < 2 * 2 * size / 2e6, "there and back go side by side"


def test_who_is_not_there_yet_is_a_closed_connection(folder):
    with DelayProxy(NETWORKS["wan"], [folder / "a", folder / "b"]) as proxy, connected(proxy, 1) as one:
        assert one.recv(1) == b""


def test_leaving_closes_everything(echo):
    with DelayProxy(NETWORKS["loopback"], echo.paths) as proxy:
        one = connected(proxy, 0)
        assert sent_and_back(one, b"x")[1] == b"x"
    with one:
        assert one.recv(1) == b""
    with pytest.raises(OSError):
        connected(proxy, 0).close()
    assert not any(thread.name == "delay proxy" for thread in threading.enumerate())


def test_the_end_of_one_direction_is_passed_on(folder):
    """The other may go on."""
    with (
        listening(folder / "server") as server,
        DelayProxy(Network("own", 2, None), [folder / "server", folder / "nobody"]) as proxy,
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


def test_sockets_are_in_a_folder_of_this_user_alone_and_gone_afterwards(tmp_path, monkeypatch):
    with socket_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700 and folder.stat().st_uid == os.getuid()
        listening(folder / "server").close()
    assert not folder.exists()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no folder for the sockets .* set TMPDIR to another"):
        socket_folder().__enter__()
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(UserError, match=f"TMPDIR={long} is too long a path for sockets"):
        socket_folder().__enter__()
    assert not list(long.iterdir())
