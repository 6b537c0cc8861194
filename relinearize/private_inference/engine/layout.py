"""What engines can run of a bundle, and how its values lie in them: weights, masks and the client's pixels.

SPU computes on N x H x W x C (`server_tensors`, `client_image`, `Gathers`), CrypTen on the bundle's own N x C x H x W
(`normalized`, the bundle's weights).

NumPy only.
"""

from dataclasses import dataclass

import numpy as np

from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import INPUT, Bundle

OPERATIONS = (
    "normalize", "conv2d", "linear", "affine", "add", "concat", "masked_relu", "avg_pool", "global_avg_pool", "flatten",
)  # fmt: skip


def require(bundle: Bundle, engine: str) -> None:
    """UserError naming the nodes that an engine with this layout cannot run."""
    refused = [f"{node.name} ({node.op})" for node in bundle.nodes if node.op not in OPERATIONS]
    if refused:
        more = f" and {len(refused) - 4} more" if len(refused) > 4 else ""
        raise UserError(
            f"{engine} cannot run {', '.join(refused[:4])}{more} of this bundle; it can {', '.join(OPERATIONS)}"
        )
    for node in bundle.nodes:
        if node.op == "normalize" and node.inputs != (INPUT,):
            raise UserError(f"{engine} cannot run {node.name} of this bundle: the client normalises the image only")


def server_tensors(bundle: Bundle) -> dict[str, np.ndarray]:
    """The weights as the engine wants them: convolutions h x w x in x out, linear layers in x out.

    An affine's scales are a diagonal matrix: the engine counts it as the linear layer that it is.
    """
    tensors = {}
    for node in bundle.nodes:
        for role, value in bundle.tensors(node).items():
            if role == "weight":
                value = value.transpose(2, 3, 1, 0) if node.op == "conv2d" else value.T
            elif role == "scale":
                value = np.diag(value)
            tensors[f"{node.name}.{role}"] = np.ascontiguousarray(value, np.float32)
    return tensors


def client_image(bundle: Bundle, image: np.ndarray) -> np.ndarray:
    """Pixels C x H x W as the client gives them: normalised in the clear, 1 x H x W x C."""
    return np.ascontiguousarray(np.moveaxis(normalized(bundle, image), 1, -1))


def normalized(bundle: Bundle, image: np.ndarray) -> np.ndarray:
    """Pixels C x H x W, normalised in the clear, 1 x C x H x W."""
    for node in bundle.nodes:
        if node.op == "normalize":
            mean, std = (np.reshape(node.attributes[name], (-1, 1, 1)) for name in ("mean", "std"))
            image = (image - mean) / std
    return np.ascontiguousarray(image[None], np.float32)


@dataclass(frozen=True)
class Gathers:
    """A mask as two public gathers around one batch of comparisons.

    With `kept` the ids of the positions whose ReLU is kept, in a flattened H x W x C map x of n positions,
    masked ReLU = concat(x, relu(x[kept]))[selected]: `selected[i]` is i, or where the i-th position's ReLU stands.
    """

    kept: np.ndarray
    selected: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> "Gathers":
        """`mask`: bool, C x H x W."""
        flat = np.moveaxis(mask, 0, -1).ravel()
        kept = np.flatnonzero(flat)
        selected = np.arange(flat.size)
        selected[kept] = flat.size + np.arange(kept.size)
        return cls(kept.astype(np.int32), selected.astype(np.int32))
