"""Downloads from a server on this machine: whole and checked, or not at all."""

import hashlib
import io
import runpy
import socket
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_sets import write_cifar10, write_tiny
from torchvision import datasets

from relinearize.data.cifar import CIFAR10
from relinearize.data.tiny_imagenet import TinyImageNet
from relinearize.errors import UserError


class Server(ThreadingHTTPServer):
    """Serves `bodies[path]`; `missing[path]` bytes are announced and not sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.bodies, self.missing, self.asked = {}, {}, []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.server.bodies.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + self.server.missing.get(self.path, 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def tar_of(folder) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return buffer.getvalue()


def source(server, root, body: bytes, monkeypatch, md5: str | None = None, **options) -> CIFAR10:
    server.bodies["/set.tar.gz"] = body
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5 or hashlib.md5(body).hexdigest())
    monkeypatch.setattr(CIFAR10, "_verified", True)  # the fake files have other checksums; the archive's is tested
    return CIFAR10(root, download=True, url=server.url("/set.tar.gz"), **options)


def left_over(root) -> list[str]:
    return [path.name for path in root.iterdir() if path.suffix != ".lock"] if root.exists() else []


def test_cifar_is_fetched_once(server, tmp_path, monkeypatch):
    body = tar_of(write_cifar10(tmp_path / "original"))
    root = tmp_path / "new" / "root"
    fetched = source(server, root, body, monkeypatch)
    assert len(fetched.load("test")) == 20
    fetched.check()
    CIFAR10(root, download=True, url=server.url("/set.tar.gz")).check()
    assert server.asked == ["/set.tar.gz"] and left_over(root) == ["cifar-10-batches-py"]
    assert fetched.fingerprint() == CIFAR10(tmp_path / "original").fingerprint()


def test_the_script_fetches_ahead_of_time(server, tmp_path, monkeypatch, capsys):
    """What is there already is only checked; what cannot be fetched is named and stops no other."""
    original = write_cifar10(tmp_path / "original")
    source(server, tmp_path, tar_of(original), monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "url", server.url("/set.tar.gz"))
    monkeypatch.setattr(TinyImageNet.__init__, "__defaults__", ("data", False, True, server.url("/none.zip")))
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "download_data.py"))["main"]
    root = tmp_path / "root"
    monkeypatch.setattr(sys, "argv", ["download_data.py", "tiny_imagenet", "cifar10", "--root", str(root)])
    for _ in range(2):
        assert script() == 1
        out, err = capsys.readouterr()
        fingerprint = CIFAR10(original.parent).fingerprint()[:16]
        assert out == f"cifar10: {root / original.name}, fingerprint {fingerprint}\n"
        assert err.startswith("tiny_imagenet: ") and "HTTP Error 404" in err
    assert server.asked == ["/none.zip", "/set.tar.gz", "/none.zip"]
    monkeypatch.setattr(sys, "argv", ["download_data.py", "cifar10", "--root", str(root)])
    assert script() == 0


def test_tiny_imagenet_is_fetched_from_a_zip(server, tmp_path):
    folder = write_tiny(tmp_path / "original", per_class=1)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for path in sorted(folder.rglob("*")):
            bundle.write(path, path.relative_to(folder.parent))
    server.bodies["/tiny.zip"] = buffer.getvalue()
    root = tmp_path / "root"
    fetched = TinyImageNet(root, download=True, url=server.url("/tiny.zip"))
    fetched.check()
    assert fetched.fingerprint() == TinyImageNet(tmp_path / "original").fingerprint()
    assert left_over(root) == ["tiny-imagenet-200"]


def test_a_server_that_falls_silent(tmp_path, monkeypatch):
    monkeypatch.setattr("relinearize.data.source.TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/set.tar.gz"
        with pytest.raises(UserError, match=r"set\.tar\.gz: .*timed out"):
            CIFAR10(tmp_path / "root", download=True, url=url).check()
    assert left_over(tmp_path / "root") == []


def test_nothing_is_fetched_unasked(server, tmp_path):
    with pytest.raises(UserError, match=r"dataset\.download=true"):
        CIFAR10(tmp_path, url=server.url("/set.tar.gz")).check()
    assert server.asked == []


def test_truncated_download(server, tmp_path, monkeypatch):
    fetched = source(server, tmp_path / "root", b"half of an archive", monkeypatch)
    server.missing["/set.tar.gz"] = 1000
    with pytest.raises(UserError, match=r"set\.tar\.gz: .*18 (of 1018 )?bytes.*try again"):
        fetched.check()
    assert left_over(tmp_path / "root") == []


def test_not_found(server, tmp_path):
    with pytest.raises(UserError, match=r"gone\.tar\.gz: cannot be fetched .HTTP Error 404"):
        CIFAR10(tmp_path / "root", download=True, url=server.url("/gone.tar.gz")).check()
    assert left_over(tmp_path / "root") == []


def test_wrong_archive_checksum_and_its_switch(server, tmp_path, monkeypatch):
    body = tar_of(write_cifar10(tmp_path / "original"))
    with pytest.raises(UserError, match=r"md5 is .*, expected 0000"):
        source(server, tmp_path / "root", body, monkeypatch, md5="0000").check()
    assert left_over(tmp_path / "root") == []
    source(server, tmp_path / "root", body, monkeypatch, md5="0000", verify=False).check()


def test_archive_without_the_folder(server, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="holds no folder cifar-10-batches-py"):
        source(server, tmp_path / "root", tar_of(tmp_path / "other"), monkeypatch).check()
    assert left_over(tmp_path / "root") == []


@pytest.mark.parametrize("damage", ["page", "cut", "flipped"])
def test_damaged_archive(server, tmp_path, monkeypatch, damage):
    whole = tar_of(write_cifar10(tmp_path / "original"))
    middle = len(whole) // 2
    body = {
        "page": b"<html>please log in</html>",
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes(1000) + whole[middle + 1000 :],
    }[damage]
    with pytest.raises(UserError, match=r"set\.tar\.gz: "):
        source(server, tmp_path / "root", body, monkeypatch).check()
    assert left_over(tmp_path / "root") == []


def escaping_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/../../../escaped")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"bad"))
    return buffer.getvalue()


def escaping_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("../../escaped", "bad")
    return buffer.getvalue()


def linking_tar() -> bytes:
    """A file below a link to outside."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py")
        link.type, link.linkname = tarfile.SYMTYPE, "../.."
        tar.addfile(link)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "message"),
    [(escaping_tar, "escaped' is no file"), (escaping_zip, "escaped' is no file"), (linking_tar, "py' is no file")],
)
def test_archives_cannot_write_outside(server, tmp_path, monkeypatch, make, message):
    with pytest.raises(UserError, match=message):
        source(server, tmp_path / "root", make(), monkeypatch).check()
    assert not list(tmp_path.rglob("escaped")) and left_over(tmp_path / "root") == []


@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_archives_larger_than_any_set_are_not_unpacked(server, tmp_path, monkeypatch, pack):
    monkeypatch.setattr("relinearize.data.source.UNPACKED_LIMIT", 10_000)
    folder = write_cifar10(tmp_path / "original")
    body = tar_of(folder)
    if pack == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as bundle:
            bundle.writestr("cifar-10-batches-py/x", bytes(20_000))
        body = buffer.getvalue()
    with pytest.raises(UserError, match="holds more than"):
        source(server, tmp_path / "root", body, monkeypatch).check()
    assert left_over(tmp_path / "root") == []


def test_server_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot be fetched .*refused"):
        CIFAR10(tmp_path, download=True, url="http://127.0.0.1:9/set.tar.gz").check()
    with pytest.raises(UserError, match=r"cannot be fetched .unknown url type"):
        CIFAR10(tmp_path, download=True, url="set.tar.gz").check()


def test_root_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        CIFAR10(tmp_path / "file" / "root", download=True).check()
