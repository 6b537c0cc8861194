"""How many ciphertexts Cheetah makes of a product of matrices in SPU 0.9.5: the rule by which it cuts them into blocks.

A ciphertext holds 8,192 scalars however few are needed, so that bytes and time of a small layer follow from this number
and not from its scalars. One party encrypts its matrix, block by block, and sends it; the other multiplies by its own
and sends the results back. Results that lie scattered are packed into fewer ciphertexts before, which is most of the
work.
"""

import math
from dataclasses import dataclass
from functools import cache

SCALARS = 8192  # in a ciphertext of the 64-bit ring
# What the engine's choice of blocks takes to be worth how much.
SENT, PACKED, MULTIPLIED = 1000, 1, 0.1


@dataclass(frozen=True)
class Ciphertexts:
    """Of one product. sent: polynomials, one for each encrypted block, as the other half of a ciphertext is a seed.

    returned: polynomials, two for each result, the first of an unpacked one nearly empty and not counted.
    multiplied: products of a ciphertext with a plaintext block. packed: places that results are packed from, a power of
    two to each ciphertext they end in; an empty one takes as long as a full one. 0 if they are not packed.
    """

    sent: int
    returned: int
    multiplied: int
    packed: int


@cache
def ciphertexts(rows: int, inner: int, columns: int) -> Ciphertexts:
    """Of a product (rows x inner) times (inner x columns)."""
    size, blocks = _blocks(rows, inner, columns, packing=True)
    packing = blocks[0] * blocks[2] > 1  # a single result needs none
    if not packing:
        size, blocks = _blocks(rows, inner, columns, packing=False)
    results = blocks[0] * blocks[2]
    return Ciphertexts(
        sent=min(blocks[0], blocks[2]) * blocks[1],
        returned=2 * math.ceil(results / size[1]) if packing else results,
        multiplied=math.prod(blocks),
        packed=size[1] * math.ceil(results / size[1]) if packing else 0,
    )


def _blocks(rows: int, inner: int, columns: int, packing: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(size of the blocks, their numbers) along rows, inner, columns: the cheapest, of equally cheap ones the last."""
    least, found = math.inf, None
    for height in range(1, min(SCALARS, rows) + 1):
        depth = 1
        while depth <= inner and height * depth <= SCALARS:
            width = min(columns, SCALARS // (height * depth))
            across, along, down = math.ceil(rows / height), math.ceil(inner / depth), math.ceil(columns / width)
            price = SENT * (min(across, down) * along + math.ceil(across * down / depth))
            price += MULTIPLIED * across * along * down
            if packing:
                price += PACKED * math.ceil(rows * columns / SCALARS) * depth
            if price <= least:
                least, found = price, ((height, depth, width), (across, along, down))
            depth = depth * 2 if packing else depth + 1
    return found
