"""What a bundle computes, with NumPy, and how far another implementation is from it."""

from collections.abc import Callable

import numpy as np

from relinearize.private_inference.bundle.bundle import Bundle, Node
from relinearize.private_inference.bundle.operations import OPERATIONS

TOLERANCE = 1e-4  # of the largest logit; larger differences are more than rounding
CHECKED = 8  # images of the reference that other implementations compute


def run_bundle(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """Logits (N x classes) of `images` (N x C x H x W, pixels of 0 to 1), in the dtype of `images`."""

    def compute(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
        return OPERATIONS[node.op].compute(*inputs, **bundle.arguments(node, images.dtype))

    return bundle.evaluate(images, compute)


def worst_difference(bundle: Bundle, run: Callable[[np.ndarray], np.ndarray] | None = None) -> float:
    """The logits of `run`, `run_bundle` if None, against those of the reference, as a share of the largest logit."""
    images, expected = bundle.reference.images[:CHECKED], bundle.reference.logits[:CHECKED]
    found = run_bundle(bundle, images) if run is None else run(images)
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
