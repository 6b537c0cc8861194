"""A network with its masks as a bundle that any engine of private inference can read.

`bundle` and `operations` need NumPy and safetensors alone: engines have environments of their own, without torch. So
`export` is loaded on first use.
"""

from typing import Any

from relinearize.private_inference.bundle.bundle import About, Bundle, read_bundle, run_bundle

__all__ = ["About", "Bundle", "export", "read_bundle", "run_bundle"]


def __getattr__(name: str) -> Any:
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from relinearize.private_inference.bundle.exporting import export

    return export
