"""Selection by joint damage: positions whose removal the others make up for go first.

Linearizing a set R of positions costs, to second order, Q(R) = 1/(2n) sum over the images of (sum over R of v)^2, with
v = g d of an image and position (scores.damage_vectors). Diagonal scores leave the products of two positions out. Here
the sum u of what is removed already is kept for each image, and a position costs E[u v] + E[v^2] / 2 (CAP, Kuznedelev
et al., NeurIPS 2023, does so for weights).
"""

from torch import Tensor

# Share of the positions still kept that goes between two looks at u.
STEP = 0.005


def removal_order(vectors: Tensor, keep: int, diagonal: float) -> Tensor:
    """Scores of positions, float64: the later a position goes, the higher; the `keep` that stay are highest.

    Args:
        vectors: v, n images x positions.
        keep: positions at which the removal ends; above it, scores are places in the order.
        diagonal: times E[v^2] added to each cost: n images are fewer than positions, so that many directions look free.
    """
    count = vectors.shape[1]
    squares = vectors.square().mean(0)
    own = squares * (0.5 + diagonal)
    removed = vectors.new_zeros(len(vectors))
    scores = squares.double() / squares.max().clamp_min(1e-30) + count  # of those that stay: by their own damage
    kept = scores.new_ones(count).bool()
    left, place = count, 0
    while left > keep:
        step = min(left - keep, max(1, int(STEP * left)))
        cost = ((removed @ vectors) / len(vectors) + own).masked_fill(~kept, float("inf"))
        going = cost.topk(step, largest=False, sorted=True).indices
        scores[going] = (place + scores.new_tensor(range(step))).to(scores)
        kept[going] = False
        removed += vectors[:, going].sum(1)
        left, place = left - step, place + step
    return scores
