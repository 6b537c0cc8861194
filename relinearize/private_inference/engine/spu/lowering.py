"""A bundle as a JAX function, and the program that SPU makes of it. Values are N x H x W x C.

The weights are arguments, secret as the image is; masks and shapes are public and built in.
"""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from relinearize.private_inference.bundle.bundle import Bundle, Node
from relinearize.private_inference.bundle.fixed_point import SPU_BITS, mean_factors, with_nearest
from relinearize.private_inference.bundle.tournament import Engine, Ids, progressions
from relinearize.private_inference.engine.job import IMAGES, LOGITS, PROGRAM_FILE
from relinearize.private_inference.engine.layout import Gathers, server_tensors
from relinearize.relu.replacement import polynomial

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


def write_program(bundle: Bundle, batch: int, kn2row: bool, folder: Path) -> dict[str, tuple[int, ...]]:
    """Write SPU's program. Name -> shape of its arguments, float32 and secret: the images, then the server's tensors.

    batch: images of one inference.
    """
    import spu
    from spu.utils import frontend

    channels, *sides = bundle.input_shape
    inputs = {IMAGES: (batch, *sides, channels)}
    inputs |= {name: tensor.shape for name, tensor in server_tensors(bundle).items()}
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in inputs.values()]
    secret = [spu.Visibility.VIS_SECRET] * len(shapes)
    function = lowered(with_nearest(bundle, SPU_BITS), kn2row)
    program, _ = frontend.compile(frontend.Kind.JAX, function, shapes, {}, list(inputs), secret, lambda _: [LOGITS])
    (folder / PROGRAM_FILE).write_bytes(program.SerializeToString())
    return inputs


def lowered(bundle: Bundle, kn2row: bool = False) -> Callable[..., Array]:
    """f(images as of `layout.client_images`, *tensors as of `layout.server_tensors`) -> logits N x classes.

    `kn2row`: one product per convolution on the map as it is, then public shifts and additions, instead of the
    engine's own im2col. In SEMI2K with local truncation it sends fewer bytes, anywhere else more.
    """
    names = list(server_tensors(bundle))
    gathers, pools = Gathers.of_bundle(bundle), bundle.pools

    def network(images: Array, *tensors: Array) -> Array:
        given = dict(zip(names, tensors, strict=True))
        return bundle.evaluate(images, lambda node, inputs: result(node, inputs, bundle.tensors(node, given)))

    def result(node: Node, inputs: list[Array], tensors: Mapping[str, Array]) -> Array:
        x = inputs[0]
        match node.op:
            case "normalize":  # the client did it before
                return x
            case "conv2d":
                convolve = product_then_shifts if kn2row else convolved
                return by_groups(convolve, x, tensors["weight"], **node.attributes) + tensors["bias"]
            case "linear":
                return x @ tensors["weight"] + tensors["bias"]
            case "affine":
                return x @ tensors["scale"] + tensors["shift"]
            case "add":
                return x + inputs[1]
            case "concat":
                return jnp.concatenate(inputs, -1)
            case "masked_relu" | "replaced_relu":
                return masked_relu(x, gathers[node.name])
            case "max_pool":
                return pools[node.name].play(x, (1, 2), ENGINE)
            case "global_avg_pool":
                mean, pixels = x.sum((1, 2), keepdims=True), math.prod(x.shape[1:3])
            case "avg_pool":
                mean, pixels = window_sums(x, **node.attributes), math.prod(node.attributes["kernel"])
            case "flatten":  # channels outermost, as in the bundle
                return jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
            case _:
                raise ValueError(f"no lowering of {node.op}")
        # A product of matrices is counted with the linear layers, a plain one with the ReLUs. The means are not put
        # into the weights behind them: small weights lose digits (three times the error in a ResNet-8).
        for factor in mean_factors(pixels):
            mean = (mean[..., None] @ np.full((1, 1), factor, np.float32))[..., 0]
        return mean

    return network


def masked_relu(x: Array, gathers: Gathers) -> Array:
    """Comparisons for the kept positions alone, of all images at once, and polynomials for the others; none of none."""
    if gathers.kept.size == gathers.selected.size:
        return jnp.maximum(x, 0)
    flat = x.reshape(len(x), -1)
    if gathers.replaced.size == gathers.selected.size:
        return polynomial(flat, gathers.coefficients).reshape(x.shape)
    parts = [flat]
    if gathers.kept.size:
        parts.append(jnp.maximum(picked(flat, gathers.kept), 0))
    if gathers.replaced.size:
        parts.append(polynomial(picked(flat, gathers.replaced), gathers.coefficients))
    if len(parts) == 1 and not gathers.zeros.size:
        return x
    joined = jnp.concatenate(parts, -1)
    if gathers.zeros.size:
        joined = jnp.pad(joined, ((0, 0), (0, 1)))
    return picked(joined, gathers.selected).reshape(x.shape)


def picked(flat: Array, places: np.ndarray) -> Array:
    return flat.at[:, places].get(mode="promise_in_bounds")


def by_groups(convolve: Callable[..., Array], x: Array, weight: Array, groups: int, **window: Any) -> Array:
    """One convolution after the other: what XLA makes of grouped ones, SPU does not know."""
    parts = zip(jnp.split(x, groups, -1), jnp.split(weight, groups, -1), strict=True)
    results = [convolve(part, kernel, **window) for part, kernel in parts]
    return results[0] if groups == 1 else jnp.concatenate(results, -1)


def convolved(x: Array, weight: Array, stride: Any, padding: Any, dilation: Any) -> Array:
    sides = [(side, side) for side in padding]
    return lax.conv_general_dilated(x, weight, stride, sides, rhs_dilation=dilation, dimension_numbers=CHANNELS_LAST)


def product_then_shifts(x: Array, weight: Array, stride: Any, padding: Any, dilation: Any) -> Array:
    """kn2row: every pixel times every column of the kernel, then each output adds up what it reads."""
    height, width, channels, out = weight.shape
    if (height, width) == (1, 1) and not any(padding):
        return lax.slice(x, (0, 0, 0, 0), x.shape, (1, *stride, 1)) @ weight[0, 0]
    products = x.reshape(-1, channels) @ weight.transpose(2, 0, 1, 3).reshape(channels, -1)
    products = products.reshape(*x.shape[:3], height, width, out)
    products = jnp.pad(products, [(0, 0), *((side, side) for side in padding), (0, 0), (0, 0), (0, 0)])
    rows, columns = (
        (size - step * (length - 1) - 1) // jump + 1
        for size, step, length, jump in zip(products.shape[1:3], dilation, (height, width), stride, strict=True)
    )

    def read_through(row: int, column: int) -> Array:
        """What each output takes from one place of its window. As lax.slice: jnp would make a gather of strides."""
        top, left = row * dilation[0], column * dilation[1]
        bottom, right = top + stride[0] * (rows - 1) + 1, left + stride[1] * (columns - 1) + 1
        first, limit = (0, top, left, row, column, 0), (len(x), bottom, right, row + 1, column + 1, out)
        return lax.slice(products, first, limit, (1, *stride, 1, 1, 1)).reshape(-1, rows, columns, out)

    return functools.reduce(jnp.add, (read_through(row, column) for row in range(height) for column in range(width)))


def cut(x: Array, axis: int, ids: Ids) -> Array:
    parts = [lax.slice_in_dim(x, one.start, one.stop, one.step, axis) for one in progressions(ids)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


# In SPU's program a maximum of two secrets is `less` and `select`, a ReLU `less` and `multiply`.
ENGINE = Engine(take=cut, maximum=jnp.maximum, concatenate=lambda x, y, axis: jnp.concatenate((x, y), axis))


def window_sums(x: Array, kernel: Any, stride: Any, padding: Any) -> Array:
    sides = [(0, 0), *((side, side) for side in padding), (0, 0)]
    return lax.reduce_window(x, 0.0, lax.add, (1, *kernel, 1), (1, *stride, 1), sides)
