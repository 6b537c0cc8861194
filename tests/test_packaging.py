"""The wheel as a stranger gets it: everything inside, and the commands work from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def succeed(command: list, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    succeed([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], folder)
    (wheel,) = folder.glob("relinearize-*.whl")
    return wheel


@pytest.mark.slow
def test_wheel_holds_all_that_the_program_reads(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "relinearize"
    sources = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= inside
    assert "relinearize/report/papers/published.csv" in inside
    configs = (ROOT / "conf").rglob("*.yaml")
    assert {f"relinearize/{path.relative_to(ROOT).as_posix()}" for path in configs} <= inside
    assert not any(name.startswith(("tests/", "conf/", "outputs/")) for name in inside)


@pytest.mark.slow
def test_installed_wheel_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies come from this environment; PYTHONPATH puts the installed package before the checkout."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    succeed([*pip, "install", "--quiet", "--no-deps", "--target", site, wheel], empty)
    program = [sys.executable, site / "bin" / "relinearize"]

    where = succeed(
        [sys.executable, "-c", "import relinearize; print(relinearize.__file__)"], empty, PYTHONPATH=str(site)
    )
    assert Path(where.strip()).is_relative_to(site)
    succeed([*program, "run", "scale=debug", "trainer.progress=none"], empty, PYTHONPATH=str(site))
    reported = succeed([*program, "report", "outputs/debug/runs"], empty, PYTHONPATH=str(site))
    written = [line for line in reported.splitlines() if line.startswith("outputs/")]
    assert "outputs/debug/runs/report.html" in written
    assert all((empty / path).is_file() for path in written)
