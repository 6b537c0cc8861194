"""Allocation: how many ReLUs each site gets when its sensitivity is known and the sum is given.

SENet splits a budget B in proportion to the sensitivities and caps each site at its size: n_l = min(N_l, c * eta_l),
with the one factor c at which the sum is B. Calculated in exact fractions, so the result is the same on every machine.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Integral, Real

from relinearize.errors import UserError


def allocate(sizes: Mapping[str, int], sensitivities: Mapping[str, float | None], budget: int) -> dict[str, int]:
    """ReLUs per site, in the order of `sizes`: min(N_l, c * eta_l) in whole numbers that sum exactly to `budget`.

    Rounded down; what is left over goes to the largest remainders, one each, among equals to the earlier site. Nothing
    depends on a common factor of the sensitivities. Sites of sensitivity 0 get something only when all others are full,
    and then equal numbers up to their sizes. A larger budget never takes more than one (rounding) from any site.

    Args:
        sizes: site -> N_l, its number of positions (C * H * W).
        sensitivities: the same sites -> eta_l >= 0; None for a site that is culled (relu/culling.py).
        budget: 1 to the sum of the sizes, of the sites that are not culled.

    Raises UserError for other sites, negative or non-finite or all-zero sensitivities, and an impossible budget.
    """
    everything = dict.fromkeys(sizes, 0)
    culled = {name for name, eta in sensitivities.items() if eta is None}
    sizes = {name: size for name, size in sizes.items() if name not in culled}
    sensitivities = {name: eta for name, eta in sensitivities.items() if name not in culled}
    _check(sizes, sensitivities, budget)
    etas = [Fraction(float(sensitivities[name])) for name in sizes]
    caps = list(sizes.values())
    shares = _capped_shares(caps, etas, budget)
    rest = budget - sum(shares)
    if rest > 0:  # every site with a sensitivity is full
        others = _capped_shares(caps, [Fraction(eta == 0) for eta in etas], rest)
        shares = [share + other for share, other in zip(shares, others, strict=True)]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(caps)), key=lambda index: (counts[index] - shares[index], index))
    for index in by_remainder[: budget - sum(counts)]:
        counts[index] += 1
    return everything | dict(zip(sizes, counts, strict=True))


def allocate_channels(
    shapes: Mapping[str, tuple[int, ...]], sensitivities: Mapping[str, float | None], budget: int
) -> dict[str, int]:
    """Whole channels per site, in the order of `shapes`, whose positions sum to at most `budget`.

    Starts from the whole channels in `allocate`'s counts. Then one more channel each to the sites with the largest
    broken-off part of a channel, as far as it fits; then whatever still fits, largest map first (sensitivity above 0
    before sensitivity 0; among equal maps the site that is furthest below its count, then the earlier). Where the sites
    of small maps are full, one more large channel takes the place of a few small ones if that comes closer. At the end
    neither a further channel nor such an exchange comes closer to the budget.

    Args:
        shapes: site -> (C, H, W), or (F,) for flat input, where each feature is a channel.
        sensitivities, budget: see `allocate`.

    Raises UserError as `allocate` does, and for a budget below the smallest map.
    """
    counts = allocate({name: math.prod(shape) for name, shape in shapes.items()}, sensitivities, budget)
    everything = dict.fromkeys(shapes, 0)
    shapes = {name: shape for name, shape in shapes.items() if sensitivities[name] is not None}
    maps = {name: math.prod(shape[1:]) for name, shape in shapes.items()}
    smallest = min(maps.values())
    if budget < smallest:
        raise UserError(
            f"budget {budget:,} is below one whole channel of any site; with whole channels give at least {smallest:,}"
        )
    channels = {name: counts[name] // maps[name] for name in shapes}
    rest = budget - sum(channels[name] * maps[name] for name in shapes)

    broken_off = {name: Fraction(counts[name] % maps[name], maps[name]) for name in shapes}
    for name in sorted((name for name in shapes if broken_off[name]), key=lambda name: -broken_off[name]):
        if maps[name] <= rest:
            channels[name] += 1
            rest -= maps[name]

    def preference(name: str) -> tuple[bool, int, int]:
        return sensitivities[name] > 0, maps[name], counts[name] - channels[name] * maps[name]

    while fitting := [name for name in shapes if maps[name] <= rest and channels[name] < shapes[name][0]]:
        chosen = max(fitting, key=preference)
        channels[chosen] += 1
        rest -= maps[chosen]
    while (exchange := _closest_exchange(channels, maps, shapes, rest)) is not None:
        rest, _, more, less, number = exchange
        channels[more] += 1
        channels[less] -= number
    return everything | channels


def _closest_exchange(
    channels: Mapping[str, int], maps: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], rest: int
) -> tuple[int, int, str, str, int] | None:
    """(new rest, positions moved, site with one channel more, site with fewer, how many fewer), or None."""
    best = None
    for more in (name for name in shapes if channels[name] < shapes[name][0]):
        for less in (name for name in shapes if name != more and channels[name]):
            number = -((rest - maps[more]) // maps[less])  # rounded up
            left = rest - maps[more] + number * maps[less]
            if not 0 < number <= channels[less] or left >= rest:
                continue
            if best is None or (left, maps[more]) < best[:2]:
                best = (left, maps[more], more, less, number)
    return best


def _capped_shares(caps: Sequence[int], etas: Sequence[Fraction], budget: int) -> list[Fraction]:
    """min(cap, c * eta), exactly; sums to `budget`, or to the caps with eta > 0 where these are less."""
    rest, weight = Fraction(budget), sum(etas)
    # Sites in the order in which a growing c fills them: c stays what it is from the first that is not filled.
    for full_at, index in sorted((Fraction(caps[index]) / eta, index) for index, eta in enumerate(etas) if eta > 0):
        factor = rest / weight
        if factor < full_at:
            return [min(Fraction(cap), factor * eta) for cap, eta in zip(caps, etas, strict=True)]
        rest, weight = rest - caps[index], weight - etas[index]
    return [Fraction(cap * (eta > 0)) for cap, eta in zip(caps, etas, strict=True)]


def _check(sizes: Mapping[str, int], sensitivities: Mapping[str, float], budget: int) -> None:
    if not sizes:
        raise UserError("there are no sites to allocate ReLUs to")
    missing = [name for name in sizes if name not in sensitivities]
    foreign = [name for name in sensitivities if name not in sizes]
    if missing or foreign:
        raise UserError(
            f"the sensitivities do not fit the network: sites without one [{', '.join(missing)}], "
            f"unknown sites [{', '.join(foreign)}]; the network has {', '.join(sizes)}"
        )
    for name, eta in sensitivities.items():
        if isinstance(eta, bool) or not isinstance(eta, Real) or not math.isfinite(eta) or eta < 0:
            raise UserError(f"the sensitivity of site {name} is {eta!r}; it must be a finite number of at least 0")
    if not any(sensitivities.values()):
        raise UserError("all sensitivities are 0; at least one site needs one above 0")
    total = sum(sizes.values())
    if isinstance(budget, bool) or not isinstance(budget, Integral) or not 1 <= budget <= total:
        raise UserError(
            f"budget {budget} cannot be allocated to {total:,} ReLUs; give a whole number from 1 to {total:,}"
        )
