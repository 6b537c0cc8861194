"""AugMix in batches on the device: chains of random operations, mixed with each other and with the image.

Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty" (2020), as in
google-research/augmix and RLNet: `width` chains of 1 to 3 operations on bytes, mixed in float by Dirichlet(1, .., 1)
weights, the mixture mixed with the image by Beta(1, 1). Mixing happens in pixels; as the weights sum to 1, normalising
before (as those codes do) or after comes to the same. The Jensen-Shannon term belongs to the loss, not here.

Every image draws its own chains. An operation is applied to all images of the batch that drew it at once, so a batch
costs about nine operations per step of the chains, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relinearize.data.augment import to_device
from relinearize.data.augmix_operations import OPERATIONS, Operation, parameters

SMALLEST_LEVEL = 0.1
DEEPEST = 3  # operations of the longest chain
ENDED = -1  # stands behind the last operation of a chain; below all positions in OPERATIONS


@dataclass(frozen=True)
class AugMixDraw:
    """All that is random about the AugMix of B images, on the CPU; independent of the images and their size.

    operations: int64 B x width x steps, positions in OPERATIONS, ENDED behind the end of a chain; levels: float64, same
    shape; signs: +1 or -1, same shape; coefficients: float32 B x (1 + width), of the image and of the chains' ends.
    """

    operations: Tensor
    levels: Tensor
    signs: Tensor
    coefficients: Tensor

    def shard(self, rank: int, world_size: int) -> AugMixDraw:
        """The draws of every world_size-th image, from image `rank` on."""
        part = slice(rank, None, world_size)
        return AugMixDraw(self.operations[part], self.levels[part], self.signs[part], self.coefficients[part])


def draw_augmix(count: int, generator: torch.Generator, severity: float = 3.0, width: int = 3) -> AugMixDraw:
    """Everything for `count` images, from a generator on the CPU.

    severity: levels are drawn from U(0.1, severity), up to 10, full strength; width: number of chains.
    """
    shape = (count, width, DEEPEST)
    operations = torch.randint(0, len(OPERATIONS), shape, generator=generator)
    drawn = torch.rand(shape, dtype=torch.float64, generator=generator)
    signs = 2 * torch.randint(0, 2, shape, generator=generator) - 1
    depths = torch.randint(1, DEEPEST + 1, (count, width, 1), generator=generator)
    operations = torch.where(torch.arange(DEEPEST) < depths, operations, ENDED)
    # Exponential numbers over their sum are Dirichlet(1, .., 1); Beta(1, 1) is the uniform distribution.
    weights = torch.empty(count, width, dtype=torch.float64).exponential_(generator=generator)
    share = torch.rand(count, 1, dtype=torch.float64, generator=generator)
    coefficients = torch.cat([1 - share, share * weights / weights.sum(1, keepdim=True)], dim=1)
    levels = SMALLEST_LEVEL + (severity - SMALLEST_LEVEL) * drawn
    return AugMixDraw(operations, levels, signs, coefficients.to(torch.float32))


def mixed(images: Tensor, draw: AugMixDraw) -> Tensor:
    """images: uint8 B x H x W x C; draw: of as many. Returns float32 in [0, 1], B x C x H x W, channels_last."""
    planes = images.permute(0, 3, 1, 2).contiguous()
    state = planes
    plan, last = schedule(draw, *planes.shape[2:], planes.device)
    for step in plan:
        state = torch.cat([operation(state.index_select(0, rows), values) for operation, rows, values in step])
    ends = state.index_select(0, last).unflatten(0, draw.operations.shape[:2])
    # Element by element rather than as a product of matrices, whose order of additions may depend on the batch's size:
    # an image must come out the same in every shard.
    shares = to_device(draw.coefficients / 255, planes.device)[:, :, None, None, None].unbind(1)
    mixture = planes.to(torch.float32) * shares[0]
    for chain, share in zip(ends.unbind(1), shares[1:], strict=True):
        mixture += chain.to(torch.float32).mul_(share)
    return mixture.clamp_(0, 1).contiguous(memory_format=torch.channels_last)


def schedule(
    draw: AugMixDraw, height: int, width: int, device: torch.device
) -> tuple[list[list[tuple[Operation, Tensor, Tensor]]], Tensor]:
    """In which order the chains are worked on: sorted by the operation of each step, so that no result is copied back.

    Returns, for each step, the operations with the rows they take from what the step before left, one behind the other
    (from the images, at the first step), and their parameters; and the rows of the chains' ends, chain by chain.
    """
    drawn = draw.operations.flatten(0, 1)
    values = parameters(drawn, draw.levels.flatten(0, 1), draw.signs.flatten(0, 1), height, width)
    chains, steps = drawn.shape
    place = torch.arange(chains) // draw.operations.shape[1]
    packed = []
    for step in range(steps):
        order = drawn[:, step].argsort(stable=True)
        packed += [place[order].to(torch.float64), values[order, step]]
        place[order] = torch.arange(chains)
    # One copy to the device per batch; float64 holds the row numbers exactly.
    moved = to_device(torch.stack([*packed, place.to(torch.float64)]), device)
    rows, moved_values = moved[0::2].to(torch.int64), moved[1::2]
    plan = []
    for step in range(steps):
        sizes = (drawn[:, step] - ENDED).bincount(minlength=1 + len(OPERATIONS)).tolist()
        pieces = zip((unchanged, *OPERATIONS), rows[step].split(sizes), moved_values[step].split(sizes), strict=True)
        plan.append([piece for piece, size in zip(pieces, sizes, strict=True) if size])
    return plan, rows[steps]


def unchanged(images: Tensor, _unused: Tensor) -> Tensor:
    return images
