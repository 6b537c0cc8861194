"""What SENet released: keep lists (ReLUs at each site for one backbone and image size), and what they imply.

SENet (Kundu et al., ICLR 2023) publishes no sensitivities and no code that computes them, only these lists:

    LISTS      the lists themselves
    RELEASED   the sensitivities, one vector per backbone, from which most of the lists follow

Both are in released.yaml.

From `sensitivity_list.yaml` of the official RLNet code, which trains SENet too: its fractions
times the sizes of the sites, rounded, so that a sum may be off that of the fractions by up to 3. Some are hand-shaped
(25K, 50K and 82K of ResNet-18, 25K of ResNet-34), so that no sensitivity explains them; what the others have in common
is RELEASED below. Names are those of the file.

Left out: VGG16bn_C10_relu12.5k, whose fractions sum to 5,675 ReLUs on this network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import yaml

from relinearize.errors import UserError


@dataclass(frozen=True)
class KeepList:
    """`counts`: ReLUs per site in forward order over all sites of the senet convention, at the usual width."""

    backbone: str
    image_size: int  # pixels
    counts: tuple[int, ...]


_FILE = yaml.safe_load(Path(__file__).with_name("released.yaml").read_text(encoding="utf-8"))
LISTS = {name: KeepList(backbone, size, tuple(kept)) for name, (backbone, size, kept) in _FILE["lists"].items()}


class ReleasedList:
    """One released list, a key of LISTS. At the budget equal to its sum the allocation is the list itself."""

    def __init__(self, list: str | None = None) -> None:
        if not isinstance(list, str) or list not in LISTS:
            name = "null" if list is None else list
            raise UserError(f"sensitivity.list={name} is no released list; valid: {', '.join(LISTS)}")
        self.name = list
        self.kept = LISTS[list]

    def sensitivities(self, shapes: Mapping[str, tuple[int, ...]], backbone: str) -> dict[str, float]:
        """The list's counts. Raises UserError where backbone, number of sites or a site's size do not fit them."""
        kept = self.kept
        if (backbone, len(shapes)) != (kept.backbone, len(kept.counts)):
            raise UserError(
                f"sensitivity.list={self.name} is for {kept.backbone} with {len(kept.counts)} sites "
                f"(backbone.convention=senet), not for {backbone} with {len(shapes)}"
            )
        for (name, shape), count in zip(shapes.items(), kept.counts, strict=True):
            if count > prod(shape):
                raise UserError(
                    f"sensitivity.list={self.name} keeps {count:,} ReLUs at site {name}, which has {prod(shape):,}; "
                    f"the list is for images of {kept.image_size} pixels and the usual width"
                )
        return {name: float(count) for name, count in zip(shapes, kept.counts, strict=True)}


# ---- the sensitivities that the lists imply --------------------------------------------------------------------------

RELEASED: dict[str, tuple[float, ...]] = {name: tuple(etas) for name, etas in _FILE["sensitivities"].items()}
# The snl convention leaves a site out: the stem's ReLU of ResNets, the final one of wide ResNets.
_SITES_OF_SNL = {"resnet18": slice(1, None), "resnet34": slice(1, None), "wrn22_8": slice(-1)}


def released_vector(backbone: str, sites: int) -> tuple[float, ...] | None:
    """The released sensitivities of `backbone` with this number of sites, in forward order; None if there are none."""
    full = RELEASED.get(backbone, ())
    of_snl = full[_SITES_OF_SNL.get(backbone, slice(0))]
    return next((vector for vector in (full, of_snl) if vector and len(vector) == sites), None)


class Released:
    """The sensitivities that SENet's released keep lists imply."""

    def sensitivities(self, shapes: Mapping[str, tuple[int, ...]], backbone: str) -> dict[str, float]:
        """Raises UserError for backbones without released lists and for another number of sites."""
        vector = released_vector(backbone, len(shapes))
        if vector is None:
            known = ", ".join(f"{name} ({len(values)} sites)" for name, values in RELEASED.items())
            raise UserError(
                f"sensitivity=released has nothing for {backbone} with {len(shapes)} sites; it exists for {known}, "
                "also without the one site that backbone.convention=snl leaves out; give sensitivity=computed"
            )
        return dict(zip(shapes, vector, strict=True))
