#!/usr/bin/env python3
"""What `make pi` installs: arguments for pip, printed; what they are and why, on standard error.

    .venv-pi/bin/python scripts/pi_requirements.py

The newest release of spu that this interpreter can install decides: where it is the one of requirements-pi.lock, its
exact versions are used, else that release and what it asks for. Runs in an empty environment, with pip alone.
"""

import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements-pi.lock"
LOCKED_PYTHON = (3, 11)


def chosen(newest: str | None, python: tuple[int, int], lock: str) -> tuple[list[str], str]:
    """(arguments for pip, one line that says what they are). newest: None where the index names no release.

    SystemExit where neither a release nor the lock fits this Python.
    """
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)$", lock.split("# indirect")[0], re.MULTILINE))
    version = ".".join(map(str, python))
    if newest == locked["spu"] or (newest is None and python == LOCKED_PYTHON):
        return ["-r", str(LOCK)], f"spu {locked['spu']} on Python {version}, with the versions of {LOCK.name}"
    if newest is None:
        raise SystemExit(
            f"make: the package index has no release of spu for Python {version}; give another: make pi "
            f"PI_PYTHON=python{'.'.join(map(str, LOCKED_PYTHON))}"
        )
    # numpy and jax are of the versions that spu asks for.
    names = [name for name in locked if name not in ("spu", "jax", "jaxlib", "numpy")]
    return [
        f"spu=={newest}",
        *names,
    ], f"spu {newest} on Python {version}, newer than {LOCK.name}: what pip finds for it"


def newest_release() -> str | None:
    command = [sys.executable, "-m", "pip", "index", "versions", "--disable-pip-version-check", "spu"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.match(r"spu \((\S+)\)", said)
    return found and found[1]


if __name__ == "__main__":
    arguments, said = chosen(newest_release(), sys.version_info[:2], LOCK.read_text(encoding="utf-8"))
    print(*arguments)
    print(f"make: {said}", file=sys.stderr)
