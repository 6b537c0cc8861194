"""What SENet released: keep lists (ReLUs at each site for one backbone and image size), and what they imply.

SENet (Kundu et al., ICLR 2023) publishes no sensitivities and no code that computes them, only these lists:

    LISTS      the lists themselves
    RELEASED   the sensitivities, one vector per backbone, from which most of the lists follow

From `sensitivity_list.yaml` of the official RLNet code, which trains SENet too: its fractions
times the sizes of the sites, rounded, so that a sum may be off that of the fractions by up to 3. Some are hand-shaped
(25K, 50K and 82K of ResNet-18, 25K of ResNet-34), so that no sensitivity explains them; what the others have in common
is RELEASED below. Names are those of the file.

Left out: VGG16bn_C10_relu12.5k, whose fractions sum to 5,675 ReLUs on this network.
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
    # For the network with a 7 x 7 stem and max-pooling.
    "ResNet18_imagenet_relu300k": KeepList("torchvision_resnet18", 224, (
        3211, 6222, 7025, 8229, 9032, 12042, 16056, 17060, 18063, 22077, 26794, 27095, 28600, *(4 * (25088,)),
    )),
    "ResNet34_C100_relu25k": KeepList("resnet34", 32, (
        262, 210, 210, 203, 197, 203, 203, 393, 426, 403, 400, 426, 492, 524, 590, 885, 803, 901, 983, 999,
        1065, 1065, 1130, 1130, 1163, 1180, 1196, 1245, 1196, 1245, 1245, 1253, 1245,
    )),
    "ResNet34_C100_relu50k": KeepList("resnet34", 32, (
        197, 306, 315, 370, 426, 465, 524, 904, 400, 950, 1049, 1108, 1219, 1260, 1373, 1878, 881, 1929, 2041,
        2081, 2189, 2212, 2294, 2294, 2359, 2349, 2402, 2493, 1827, 2503, 2503, 2510, 2505,
    )),
    "ResNet34_C100_relu80k": KeepList("resnet34", 32, (
        197, 485, 498, 587, 675, 734, 852, 1442, 501, 1516, 1678, 1769, 1950, 2017, 2195, 3015, 1409, 3091,
        3272, 3340, 3508, 3541, 3670, 3670, 3768, 3768, 3850, 3998, 2927, 4014, 4014, 4014, 4014,
    )),
    "ResNet34_C100_relu200k": KeepList("resnet34", 32, (
        275, 1304, 1337, 1573, 1809, 1966, 2261, 3847, 1343, 4030, 4470, 4719, 5177, 5361, 5843, 7988, 3752,
        8192, 8684, 8847, 9339, 9404, 9830, 9830, 10027, 9994, 10207, 8192, 7782, 8192, 8192, 8192, 8192,
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

# The lists follow n_l = min(N_l, c * eta_l); read backwards, they give eta up to a common factor: ResNet-18 from the
# Tiny-ImageNet lists, where nothing saturates, ResNet-34 from the 80K list, WRN-22-8 and VGG16-BN from their CIFAR
# lists. They are practically the same for all datasets, so one vector serves every image size. Relative to the maximum;
# forward order over all sites of the senet convention.
#
# Entries 8, 16 and 28 (from 0) of ResNet-34 fall out of line, as if the densities of its 1x1 shortcut convolutions had
# been shifted in. They are kept as released.
RELEASED: dict[str, tuple[float, ...]] = {
    "resnet18": (
        0.0572, 0.1854, 0.2129, 0.2506, 0.2758, 0.3549, 0.4884, 0.5102, 0.5568, 0.6739, 0.8143, 0.8277, 0.8623,
        0.9410, 0.9902, 0.9986, 1.0,
    ),
    "resnet34": (
        0.049, 0.121, 0.124, 0.146, 0.168, 0.183, 0.212, 0.359, 0.125, 0.378, 0.418, 0.441, 0.486, 0.502, 0.547,
        0.751, 0.351, 0.770, 0.815, 0.832, 0.874, 0.882, 0.914, 0.914, 0.939, 0.939, 0.959, 0.996, 0.729, 1.0, 1.0,
        1.0, 1.0,
    ),
    "wrn22_8": (
        0.035, 0.140, 0.323, 0.393, 0.435, 0.484, 0.526, 0.561, 0.702, 0.772, 0.842, 0.860, 0.891, 0.898, 0.968,
        0.995, 0.993, 1.0, 1.0,
    ),
    "vgg16_bn": (0.058, 0.209, 0.272, 0.383, 0.493, 0.667, 0.725, 0.855, 0.957, 0.986, 0.986, 1.0, 1.0),
}  # fmt: skip

RELEASED["torchvision_resnet18"] = RELEASED["resnet18"]

# The site that the snl convention leaves out: the stem's ReLU of ResNets, the final one of wide ResNets.
_LEFT_OUT_BY_SNL = {"resnet18": 0, "resnet34": 0, "wrn22_8": -1}


def released_vector(backbone: str, sites: int) -> tuple[float, ...] | None:
    """The released sensitivities of `backbone` with this number of sites, in forward order; None if there are none."""
    full = RELEASED.get(backbone, ())
    if sites == len(full):
        return full or None
    left_out = _LEFT_OUT_BY_SNL.get(backbone)
    if left_out is None or sites != len(full) - 1:
        return None
    return full[1:] if left_out == 0 else full[:-1]


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
