"""Which images of a batch are seen as what, and on which route (RLNet, CVPRW 2024; its official code).

Three parts: the images as they are, their AugMix views, and adversarial examples of them. Every route takes an equal
share of the batch, so with two routes an image is, in an epoch, either clean and AugMix (first half, route clean) or
adversarial (second half); with three it is one of the three. With one route every image is all of them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from relinearize.data.order import part_bounds
from relinearize.errors import UserError, checked_keys

PARTS = ("clean", "augmix", "adversarial")
SPLITS = ("shares", "full")


@dataclass(frozen=True)
class Part:
    """The rows of a batch that are seen as `name` (one of PARTS), through the batch norms of `route`."""

    name: str
    route: str
    rows: slice


def route_of(part: str, routes: Sequence[str]) -> str:
    """The route of a part: its own where the network has it, else clean."""
    return part if part in routes else "clean"


def batch_parts(count: int, routes: Sequence[str], names: Collection[str] = PARTS, split: str = "shares") -> list[Part]:
    """The parts `names` of a batch of `count` images, in the order of PARTS.

    `split`: "shares": every route in use takes an equal share of the rows, earlier ones the longer (the official code's
    halves and thirds); "full": every part is made of all rows.
    """
    used = [(name, route_of(name, routes)) for name in PARTS if name in names]
    order = list(dict.fromkeys(route for _, route in used))
    bounds = part_bounds(count, len(order))
    rows = {route: slice(*bounds[place : place + 2]) for place, route in enumerate(order)}
    return [Part(name, route, slice(0, count) if split == "full" else rows[route]) for name, route in used]


def checked_weights(given: Mapping[str, float] | None, defaults: Mapping[str, float], key: str) -> dict[str, float]:
    """Part -> factor: `defaults` with what is `given` at config key `key`. UserError for unknown parts and impossible
    factors."""
    weights = {**defaults, **checked_keys(key, given, PARTS)}
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise UserError(f"{key}.{name}={weight} is no weight: must be a number >= 0")
    return weights


def used_parts(weights: Mapping[str, float], routes: Sequence[str], key: str) -> tuple[str, ...]:
    """The parts of weight above 0, in order. UserError, naming the config key, where a route would never be trained."""
    used = tuple(name for name in PARTS if weights.get(name))
    for route in routes:
        if route not in {route_of(name, routes) for name in used}:
            raise UserError(f"{key}: no part in use trains route {route}; give one a weight, or fewer method.routes")
    return used
