"""SENet's released keep lists themselves: so many ReLUs at each site, for one backbone and image size.

From `sensitivity_list.yaml` of the official RLNet code, which trains SENet (Kundu et al., ICLR 2023) too: its fractions
times the sizes of the sites, rounded, so that a sum may be off that of the fractions by up to 3. Some are hand-shaped
(25K, 50K and 82K of ResNet-18), so that no sensitivity explains them; what the others have in common is
released_sensitivity.py. Names are those of the file.

Left out: VGG16bn_C10_relu12.5k, whose fractions sum to 5,675 ReLUs on this network, and the four lists of ResNet-34,
of which only the sums are known here (200,153, 79,978, 50,116 and 25,073 ReLUs).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from relinearize.errors import UserError


@dataclass(frozen=True)
class KeepList:
    """`counts`: ReLUs per site in forward order over all sites of the senet convention, at the usual width."""

    backbone: str
    image_size: int  # pixels
    counts: tuple[int, ...]


_RESNET18_82K = (
    655, 7209, 9175, 12452, 13763, 983, 983, 983, 983, 1638, 2294, 3113, 5571, 2867, 6226, 6799, 6963,
)  # fmt: skip
_TINY_150K = (
    857, 2781, 3193, 3760, 4138, 5323, 7325, 7652, 8351, 10108, 12215, 12415, 12935, 14114, 14853, 14979, 15000,
)  # fmt: skip

LISTS: dict[str, KeepList] = {
    "ResNet18_c100_relu25k": KeepList("resnet18", 32, (
        262, 655, 655, 655, 721, 885, 1245, 1311, 1376, 1671, 2032, 2064, 2130, 2294, 2458, 2458, 2458,
    )),
    "ResNet18_c100_relu50k": KeepList("resnet18", 32, (
        1311, 1638, 1966, 1638, 1638, 1638, 1638, 1638, 1638, 4096, 4096, 4096, 4096, 4096, 4915, 4915, 4915,
    )),
    "ResNet18_c100_relu82k": KeepList("resnet18", 32, _RESNET18_82K),
    "ResNet18_c100_relu100k": KeepList("resnet18", 32, (
        634, 2051, 2359, 2776, 3054, 3932, 5407, 5636, 6160, 7464, 9019, 9175, 9552, *(4 * (8192,)),
    )),
    "ResNet18_c100_relu120k": KeepList("resnet18", 32, (
        786, 2621, 3015, 3604, 3932, 5079, 7012, 7307, 7995, 9667, 11698, 11895, 12386, *(4 * (8192,)),
    )),
    "ResNet18_C10_relu82k": KeepList("resnet18", 32, _RESNET18_82K),
    "ResNet18_C10_relu150k": KeepList("resnet18", 32, (
        1311, 3604, 4063, 4850, 5308, 6554, 9175, 9830, 10486, 12943, 15729, 15892, 16384, *(4 * (8192,)),
    )),
    "ResNet18_tiny_imagenet_relu150k": KeepList("resnet18", 64, _TINY_150K),
    "ResNet18_tiny_imagenet_relu300k": KeepList("resnet18", 64, tuple(2 * count for count in _TINY_150K)),
    # For the network with a 7 x 7 stem and max-pooling, which conf/backbone/ does not have.
    "ResNet18_imagenet_relu300k": KeepList("resnet18", 224, (
        3211, 6222, 7025, 8229, 9032, 12042, 16056, 17060, 18063, 22077, 26794, 27095, 28600, *(4 * (25088,)),
    )),
    "VGG16bn_C10_relu29k": KeepList("vgg16_bn", 32, (
        197, 655, 918, 1311, 1802, 2294, 2294, 2867, 3195, 3277, 3277, 3359, 3359,
    )),
    "VGG16bn_C10_relu49k": KeepList("vgg16_bn", 32, (
        328, 1180, 1540, 2163, 2785, 3768, 4096, 4833, 5407, 5571, 5571, 5652, 5652,
    )),
    "VGG16bn_C10_relu120k": KeepList("vgg16_bn", 32, (
        1442, 5374, 7209, 10158, 13599, 16384, 16384, *(6 * (8192,)),
    )),
    "WRN22_8_C100_relu240k": KeepList("wrn22_8", 32, (
        655, 2621, 6029, 7340, 8126, 9044, 9830, 10486, 13107, 14418, 15729, 16056, 16646, 16777, 18088, 18579, 18547,
        18678, 18678,
    )),
    "WRN22_8_C100_relu300k": KeepList("wrn22_8", 32, (
        726, 3277, 7340, 9175, 10093, 11207, 12360, 13435, 16843, 18416, 19268, 20054, 20775, 20972, 22643, 23265,
        22938, 23265, 23265,
    )),
}  # fmt: skip


class ReleasedList:
    """One released list. At the budget equal to its sum the allocation is the list itself.

    Args:
        list: its name, a key of LISTS.
    """

    def __init__(self, list: str | None = None) -> None:
        if list not in LISTS:
            asked = "null" if list is None else list
            raise UserError(f"sensitivity.list={asked} is no released list; valid: {', '.join(LISTS)}")
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
