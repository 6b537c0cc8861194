"""The C library: compiled once, by whom, and what a user reads where it cannot be."""

import ctypes
import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from relinearize.convolution import building
from relinearize.convolution.switch import resolve_convolutions
from relinearize.errors import UserError

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no compiler")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache of its own, nothing remembered of the tests before or for those after; a processor that gains."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    building.library.cache_clear()
    yield
    building.library.cache_clear()


def only_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)


@needs_compiler
def test_compiled_once_and_then_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(building.library(), ctypes.CDLL)
    (made,) = (tmp_path / "cache" / "relinearize").iterdir()
    building.library.cache_clear()
    monkeypatch.setattr(building, "compile_into", lambda *_: pytest.fail("compiled twice"))
    building.library()
    assert [made] == list((tmp_path / "cache" / "relinearize").iterdir())


@needs_compiler
def test_another_source_compiler_or_processor_is_another_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = building.find_compiler()
    found = {building.fingerprint(compiler)}
    monkeypatch.setattr(building, "processor", lambda: "flags: fpu avx512f")
    found.add(building.fingerprint(compiler))
    changed = tmp_path / "winograd.c"
    changed.write_text(building.SOURCE.read_text() + "\n")
    monkeypatch.setattr(building, "SOURCE", changed)
    found.add(building.fingerprint(compiler))
    found.add(building.fingerprint(sys.executable))
    assert len(found) == 4


@needs_compiler
def test_two_processes_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")  # spares a child the import of torch
    processes = [fork.Process(target=lambda: building.library().winograd_convolution) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache" / "relinearize").iterdir())) == 1


@needs_compiler
@pytest.mark.slow
def test_threads_are_those_of_torch() -> None:
    """One OpenMP: a second would have idle threads of its own spin on the same cores."""
    code = """
from pathlib import Path
from relinearize.convolution.building import library
names = lambda: {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line}
before = names()
library()
assert before and names() == before, names()
"""
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}  # compiled before
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=environment)


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_on_path(tmp_path / "bin", monkeypatch)
    assert resolve_convolutions("auto") == "torch"
    with pytest.raises(UserError, match=r"needs a C compiler and found none .*trainer.convolutions=torch"):
        resolve_convolutions("winograd")


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_on_path(tmp_path / "bin", monkeypatch, cc='echo "cc: error: unknown option" >&2; exit 1')
    assert resolve_convolutions("auto") == "torch"
    with pytest.raises(UserError, match=r"cannot compile winograd.c into .* \(cc: error: unknown option\)") as caught:
        resolve_convolutions("winograd")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "relinearize").iterdir()) == []


@needs_compiler
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.touch", full)
    assert resolve_convolutions("auto") == "torch"
    with pytest.raises(UserError, match=r"cannot compile winograd.c .*No space left on device"):
        resolve_convolutions("winograd")


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "none" / "file"))
    (tmp_path / "none").write_text("not a folder")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert building.cache_folder() == tmp_path / f"relinearize-{os.getuid()}"


def test_a_library_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_on_path(tmp_path / "bin", monkeypatch, cc='while [ "$1" != "-o" ]; do shift; done; echo no library > "$2"')
    with pytest.raises(UserError, match=r"winograd-\w+.so cannot be loaded .*remove it"):
        resolve_convolutions("winograd")
    building.library.cache_clear()
    assert resolve_convolutions("auto") == "torch"


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert building.cache_folder() == tmp_path / "temporary" / f"relinearize-{os.getuid()}"
    assert building.cache_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"can be written; give trainer.convolutions=torch"):
        building.cache_folder()


def test_a_folder_of_somebody_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UserError, match=r"can be written"):
        building.cache_folder()


def test_values_of_the_setting() -> None:
    assert resolve_convolutions("torch") == "torch"
    assert resolve_convolutions("auto", possible=False) == "torch"
    with pytest.raises(UserError, match=r"convolutions=fft is unknown; valid: auto, torch, winograd"):
        resolve_convolutions("fft")
    with pytest.raises(UserError, match=r"needs trainer.accelerator=cpu, precision=32, channels_last=true"):
        resolve_convolutions("winograd", possible=False)


def test_auto_is_for_the_processors_it_was_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relinearize.convolution.switch.library", lambda: pytest.fail("asked for a compiler"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert resolve_convolutions("auto") == "torch"
