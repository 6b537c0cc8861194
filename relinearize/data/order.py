"""Which images stand in which batch of which epoch: pure functions of (seed, epoch, batch).

Nothing here keeps a state, so a killed run that goes on at (epoch, part) sees the very batches it would have seen.
"""

from __future__ import annotations

import hashlib

import torch

from relinearize.errors import UserError


def seeded_generator(*key: object) -> torch.Generator:
    """A generator on the CPU (so that CPU and GPU runs draw the same) seeded by a stable hash of the key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def batch_bounds(count: int, batch_size: int, short_batch: bool = False) -> list[int]:
    """Where the batches of an epoch begin, and where the last one ends.

    All batches have `batch_size` images but the last, which takes what is left. A remainder below a quarter of a batch
    is too small for batch-norm statistics (one image has none at all): it is shared with the batch before it, half and
    half, so that every image is still seen once per epoch. short_batch: only where it is a single image.
    """
    if batch_size < 2:
        raise UserError(f"batch_size={batch_size}: batch norm needs at least 2 training images in a batch")
    if count < 2:
        raise UserError(f"{count} training image(s): batch norm needs at least 2; give more images")
    bounds = [*range(0, count, batch_size), count]
    remainder = count % batch_size
    if len(bounds) > 2 and 0 < remainder < (2 if short_batch else max(2, batch_size // 4)):
        shared = batch_size + remainder
        bounds[-2:-1] = [] if shared < 4 else [count - shared // 2]
    return bounds


def part_bounds(batches: int, parts: int) -> list[int]:
    """Where the consecutive parts of an epoch begin, in batches, and where the last one ends; longer parts first."""
    if parts < 1:
        raise ValueError(f"parts={parts}: needs at least 1")
    length, longer = divmod(batches, parts)
    return [part * length + min(part, longer) for part in range(parts + 1)]
