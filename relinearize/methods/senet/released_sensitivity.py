"""The sensitivities that SENet's released keep lists imply, one vector per backbone.

SENet (Kundu et al., ICLR 2023) publishes no sensitivities and no code that computes them, only lists of keep fractions
(`sensitivity_list.yaml` of the official RLNet code, which trains SENet too). Those lists follow
n_l = min(N_l, c * eta_l); read backwards, they give eta up to a common factor: ResNet-18 from the Tiny-ImageNet lists,
where nothing saturates, ResNet-34 from the 80K list, WRN-22-8 and VGG16-BN from their CIFAR lists. They are practically
the same for all datasets, so one vector serves every image size.

Relative to the maximum; forward order over all sites of the senet convention.
"""

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
