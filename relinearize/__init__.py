"""relinearize: network linearization for private inference.

The names below are the small public interface for people with their own training loop. They are loaded on first
use (PEP 562), so that `import relinearize` stays free of torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "linearize": "relinearize.relu.sites",
    "named_sites": "relinearize.relu.sites",
    "to_masked": "relinearize.relu.sites",
    "to_sloped": "relinearize.relu.sites",
    "relu_counts": "relinearize.relu.mask",
    "relu_total": "relinearize.relu.mask",
    "Mask": "relinearize.relu.mask",
    "MaskMetadata": "relinearize.relu.mask",
    "load_mask": "relinearize.relu.mask",
    "save_mask": "relinearize.relu.mask",
    "resolve_budget": "relinearize.relu.budget",
    "top_mask": "relinearize.relu.budget",
    "FinishedRun": "relinearize.runs.finished",
    "UserError": "relinearize.errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'relinearize' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
