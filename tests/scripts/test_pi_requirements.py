"""What `make pi` installs: the newest SPU for its Python, the lock where that is the lock's."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/pi_requirements.py"
LOCK = "# comment\n# direct\nfilelock==4.2.11\njax==0.4.34\nnumpy==1.26.4\nspu==0.9.5\n\n# indirect\nscipy==1.17.1\n"


@pytest.fixture
def chosen():
    return runpy.run_path(str(SCRIPT))["chosen"]


@pytest.mark.parametrize("newest", ["0.9.5", None])
def test_the_lock_where_it_fits_and_without_an_index(chosen, newest):
    arguments, said = chosen(newest, (3, 11), LOCK)
    assert arguments == ["-r", str(SCRIPT.parents[1] / "requirements-pi.lock")]
    assert said == "spu 0.9.5 on Python 3.11, with the versions of requirements-pi.lock"


@pytest.mark.parametrize("python", [(3, 11), (3, 12)])
def test_a_newer_release_brings_its_own_numpy_and_jax(chosen, python):
    arguments, said = chosen("0.10.0", python, LOCK)
    assert arguments == ["spu==0.10.0", "filelock"]
    assert said.startswith(f"spu 0.10.0 on Python 3.{python[1]}, newer than requirements-pi.lock")


def test_a_python_without_a_release_is_one_line(chosen):
    with pytest.raises(SystemExit, match=r"^make: .* no release of spu for Python 3.12; .* PI_PYTHON=python3.11$"):
        chosen(None, (3, 12), LOCK)
