"""What a search leaves at a budget, and the columns of its history that every search has."""

from collections.abc import Iterable, Mapping
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


def count_columns(counts: Mapping[str, int]) -> dict[str, int]:
    """Of a search's rows: the ReLUs kept, `relu/count`, and those of each site, `relu/kept/SITE`."""
    return {"relu/count": sum(counts.values()), **{f"relu/kept/{name}": count for name, count in counts.items()}}


def without_alphas(weights: Mapping[str, Tensor], sites: Iterable[str]) -> dict[str, Tensor]:
    """`weights` without the `alpha` of each of `sites`; a network may have parameters of its own by that name."""
    alphas = {f"{name}.alpha" for name in sites}
    return {key: value for key, value in weights.items() if key not in alphas}
