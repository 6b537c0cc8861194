"""What engines can run of a bundle, and how its values lie in them: weights, masks and the client's pixels.

SPU computes on N x H x W x C (`server_tensors`, `client_images`, `Gathers`), CrypTen on the bundle's own N x C x H x W
(`normalized`, the bundle's weights).

NumPy only.
"""

from dataclasses import dataclass

import numpy as np

from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import INPUT, Bundle


def require(bundle: Bundle, engine: str) -> None:
    """UserError naming the node that an engine with this layout cannot run."""
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


def client_images(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """Pixels N x C x H x W as the client gives them: normalised in the clear, N x H x W x C."""
    return np.ascontiguousarray(np.moveaxis(normalized(bundle, images), 1, -1))


def normalized(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """Pixels N x C x H x W, normalised in the clear."""
    for node in bundle.nodes:
        if node.op == "normalize":
            mean, std = (np.reshape(node.attributes[name], (-1, 1, 1)) for name in ("mean", "std"))
            images = (images - mean) / std
    return np.ascontiguousarray(images, np.float32)


def pool_shares(bundle: Bundle) -> tuple[float, float]:
    """The shares of max-pools in all comparisons, and in their batches, one for each round of a pool or live site."""
    pools, kept = bundle.pools.values(), bundle.kept.values()
    batches = sum(pool.rounds for pool in pools)
    shares = ((bundle.pool_comparisons, sum(kept)), (batches, sum(count > 0 for count in kept)))
    return tuple(ours / max(1, ours + others) for ours, others in shares)


@dataclass(frozen=True)
class Gathers:
    """A site as public gathers around one batch of comparisons and one of polynomials.

    kept, replaced, zeros: the ids of the positions, in the flattened map x of an image, of n, where a ReLU, a
    polynomial (with `coefficients`, K x replaced) and 0 stand; at the others the identity. With `selected[i]` = i, or
    where the i-th position's value stands,

        site = concat(x, relu(x[kept]), polynomial(x[replaced], coefficients), 0)[selected].
    """

    kept: np.ndarray
    replaced: np.ndarray
    zeros: np.ndarray
    coefficients: np.ndarray
    selected: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, coefficients: np.ndarray | None = None, channels_last: bool = True) -> "Gathers":
        """mask: bool, C x H x W; coefficients: those of a replaced_relu; channels_last: of maps H x W x C."""
        given = np.ones((1, *mask.shape), np.float32) if coefficients is None else coefficients
        given = np.broadcast_to(given, (len(given), *mask.shape))
        if channels_last:
            mask, given = np.moveaxis(mask, 0, -1), np.moveaxis(given, 1, -1)
        flat, given = mask.ravel(), given.reshape(len(given), -1)
        kept, removed = np.flatnonzero(flat), np.flatnonzero(~flat)
        single = len(given) == 1  # slopes of 0 and 1: nothing is computed
        zeros, replaced = removed[given[0, removed] == 0] if single else removed[:0], removed[: 0 if single else None]
        selected = np.arange(flat.size)
        selected[kept] = flat.size + np.arange(kept.size)
        selected[replaced] = flat.size + kept.size + np.arange(replaced.size)
        selected[zeros] = flat.size + kept.size
        ids = (one.astype(np.int32) for one in (kept, replaced, zeros))
        return cls(*ids, given[:, replaced], selected.astype(np.int32))

    @classmethod
    def of_bundle(cls, bundle: Bundle, channels_last: bool = True) -> dict[str, "Gathers"]:
        """Site -> its gathers."""
        sites = bundle.masks.items()
        return {name: cls.of(mask, bundle.coefficients.get(name), channels_last) for name, mask in sites}
