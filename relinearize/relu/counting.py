"""How many ReLUs a linearized network has."""

from torch import nn

from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.sites import named_sites


def relu_counts(network: nn.Module) -> dict[str, int]:
    """True positions now kept at each site, in forward order.

    Raises UserError where a site has slopes: those are not decided yet, `to_masked` turns them into a mask.
    """
    counts = {}
    for name, site in named_sites(network).items():
        if not isinstance(site, MaskedReLU):
            raise UserError(f"site {name} has slopes, which count as neither kept nor removed; call to_masked first")
        counts[name] = int(site.mask.sum())
    return counts


def relu_total(network: nn.Module) -> int:
    """True positions now kept in the whole network."""
    return sum(relu_counts(network).values())
