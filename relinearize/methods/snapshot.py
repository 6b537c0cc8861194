"""The result of a search, whatever the method."""

from dataclasses import dataclass, field

from torch import Tensor

from relinearize.relu.mask import Mask


@dataclass(frozen=True)
class Snapshot:
    """What a search leaves at a budget: the mask that meets it and the weights of that moment."""

    budget: int
    mask: Mask
    weights: dict[str, Tensor]
    reached: bool  # False: the epochs ran out first and the mask is the projection of where the search stood
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    scores: dict[str, Tensor] | None = None  # of every position, where the mask is the top of such
