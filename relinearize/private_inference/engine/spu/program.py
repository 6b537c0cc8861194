"""A bundle as SPU's program, in the file that both parties read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import spu

from relinearize.private_inference.bundle.bundle import Bundle
from relinearize.private_inference.engine.job import IMAGE, LOGITS, PROGRAM_FILE
from relinearize.private_inference.engine.layout import client_image, server_tensors
from relinearize.private_inference.engine.spu.lowering import lowered


def write_program(bundle: Bundle, kn2row: bool, folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what the program takes: the image, then the server's tensors."""
    image = client_image(bundle, bundle.reference.images[0])
    inputs = {IMAGE: image.shape, **{name: tensor.shape for name, tensor in server_tensors(bundle).items()}}
    (folder / PROGRAM_FILE).write_bytes(compiled(lowered(bundle, kn2row), inputs))
    return inputs


def compiled(function: Callable, inputs: dict[str, tuple[int, ...]]) -> bytes:
    """SPU's program of a JAX function whose arguments, float32 of these shapes, are all secret."""
    import jax
    from spu.utils import frontend

    secret = spu.Visibility.VIS_SECRET
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in inputs.values()]
    program, _ = frontend.compile(
        frontend.Kind.JAX, function, shapes, {}, list(inputs), [secret] * len(shapes), lambda _: [LOGITS]
    )
    return program.SerializeToString()
