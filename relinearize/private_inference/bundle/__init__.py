"""A network with its masks as a bundle that any engine of private inference can read.

`bundle`, `operations` and `interpreter` need NumPy and safetensors alone: engines have environments of their own,
without torch. So the names below are loaded on first use.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Bundle": "relinearize.private_inference.bundle.bundle",
    "About": "relinearize.private_inference.bundle.bundle",
    "read_bundle": "relinearize.private_inference.bundle.bundle",
    "run_bundle": "relinearize.private_inference.bundle.interpreter",
    "export": "relinearize.private_inference.bundle.exporting",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'relinearize.private_inference.bundle' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
