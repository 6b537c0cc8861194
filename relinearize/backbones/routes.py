"""Multi-route batch norm: one set of convolution and linear weights, one full batch norm per route.

From RLNet (CVPRW 2024; its official code). A *route* is one way through the network: it picks one batch norm (affine
and statistics) of each set, shortcuts included. Everything else is shared. A network plus a route exports to an
ordinary network, which is what is deployed: its batch norms fold into linear layers, so in private inference a route
costs nothing.

    routed = with_routes(network, ROUTES[2])
    with on_route(routed, "adversarial"):
        routed(images)
    deployed = export_route(routed, "clean")
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, fx, nn

from relinearize.backbones.batch_norm import NORMS, BatchNorm
from relinearize.errors import UserError

# Number of batch-norm sets -> what each is for. The first one is what an ordinary network has.
ROUTES = {1: ("clean",), 2: ("clean", "adversarial"), 3: ("clean", "augmix", "adversarial")}
NAMES = ROUTES[3]
STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class RoutedBatchNorm(nn.Module):
    """One batch norm per route, each a copy of `norm` at first; `route` says which one works.

    Its parameters are called `clean.weight`, `adversarial.running_mean`, ...: the route stands before the name.
    """

    def __init__(self, norm: BatchNorm, routes: Sequence[str]) -> None:
        super().__init__()
        self.routes = tuple(routes)
        self.route = self.routes[0]
        for route in self.routes:
            self.add_module(route, copy.deepcopy(norm))
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):  # the trace would hold one route for good, and be folded with it
            raise TypeError("a network with routes has no single graph; trace what export_route gives")
        return getattr(self, self.route)(x)

    def extra_repr(self) -> str:
        return f"route={self.route}"


def with_routes(network: nn.Module, routes: Sequence[str]) -> nn.Module:
    """A copy of `network` in which every BatchNorm1d and 2d is a RoutedBatchNorm, on route `routes[0]`.

    Every route starts as the original: same logits on each. `routes`: different names of `NAMES`; see ROUTES.
    UserError for other names, and for a network without batch norms, with routes already, or with batch norms that
    keep no statistics (they cannot be folded into a linear layer).
    """
    names = [] if isinstance(routes, str) else list(routes)
    if not names or len(set(names)) < len(names) or not set(names) <= set(NAMES):
        raise UserError(f"routes {routes}: must be different names of {_listed(NAMES)}")
    modules = dict(network.named_modules(remove_duplicate=False))
    norms = {path: module for path, module in modules.items() if isinstance(module, NORMS)}
    if not norms:
        raise UserError("the network has no batch norms, so there is nothing to have routes")
    for path, module in modules.items():
        if isinstance(module, RoutedBatchNorm):
            raise UserError(f"{path} has routes already")
        if path.rpartition(".")[2] in NAMES:
            raise UserError(f"module {path} has the name of a route; call it otherwise")
    for path, norm in norms.items():
        if norm.running_mean is None:
            raise UserError(f"batch norm {path} keeps no running statistics (track_running_stats=False)")
    routed = copy.deepcopy(network)
    return _exchanged(routed, NORMS, lambda norm: RoutedBatchNorm(norm, routes))


def routes_of(network: nn.Module) -> tuple[str, ...]:
    """The routes of `network`; ("clean",) for an ordinary network."""
    return next((module.routes for module in network.modules() if isinstance(module, RoutedBatchNorm)), ROUTES[1])


@contextmanager
def on_route(network: nn.Module, route: str) -> Iterator[nn.Module]:
    """Let every batch norm of `network` work on `route` inside of a `with`; then each is back where it was.

    An ordinary network knows "clean" only. A plain attribute of each module changes: torch.compile keeps one graph per
    route.
    """
    _check_route(network, route)
    before = {module: module.route for module in network.modules() if isinstance(module, RoutedBatchNorm)}
    for module in before:
        module.route = route
    try:
        yield network
    finally:
        for module, former in before.items():
            module.route = former


def export_route(network: nn.Module, route: str) -> nn.Module:
    """An ordinary copy of `network` with the batch norms of `route`: the class, names and shapes it had without routes.

    Bit-equal logits in train and eval mode. Of an ordinary network: a copy.
    """
    _check_route(network, route)
    return _exchanged(copy.deepcopy(network), (RoutedBatchNorm,), lambda norm: getattr(norm, route))


# ---- the same for state dicts ----------------------------------------------------------------------------------------


def route_state(state: Mapping[str, Tensor], route: str) -> dict[str, Tensor]:
    """From the state dict of a network with routes, that of `export_route(network, route)`; nothing is copied.

    That of an ordinary network is its own for route "clean".
    """
    found = {part for key in state if (part := _route_in(key)) is not None} or set(ROUTES[1])
    if route not in found:
        raise UserError(f"the weights have no route {route}; valid: {_listed(found)}")
    picked = {}
    for key, value in state.items():
        of = _route_in(key)
        if of is None:
            picked[key] = value
        elif of == route:
            module, _, name = key.rpartition(".")
            picked[f"{module.rpartition('.')[0]}.{name}".removeprefix(".")] = value
    return picked


def state_for(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """From a state dict with routes, without, or with routes for some batch norms, that of a network of other ones.

    `names`: the keys of that network's state dict. A route that `state` lacks starts as the one set that is there for
    all; where the network has one set, it gets the clean one. What belongs to no route stays as it is.
    """
    found: dict[str, Tensor] = {}
    used = set()
    for name in names:
        module, _, last = name.rpartition(".")
        for_all = f"{module.rpartition('.')[0]}.{last}".removeprefix(".")
        clean = f"{module}.clean.{last}".removeprefix(".")
        source = name if name in state else for_all if _route_in(name) else clean
        if source in state:
            found[name] = state[source] if source == name else state[source].clone()
            used.add(source)
    return found | {key: value for key, value in state.items() if key not in used and _route_in(key) is None}


def _route_in(key: str) -> str | None:
    """The route that a name in a state dict belongs to: bn1.clean.weight -> clean, conv1.weight -> None."""
    *_, module, name = ("", *key.split("."))
    return module if module in NAMES and name in STATE else None


# ---- what these share ------------------------------------------------------------------------------------------------


def _exchanged(network: nn.Module, kinds: tuple[type, ...], new) -> nn.Module:
    """Put `new(module)` in the place of each module of `kinds`, in place; one called under two names stays one."""
    made: dict[nn.Module, nn.Module] = {}
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if not isinstance(module, kinds):
            continue
        made[module] = made.get(module) or new(module)
        if not path:
            return made[module]
        network.set_submodule(path, made[module])
    return network


def _check_route(network: nn.Module, route: str) -> None:
    valid = routes_of(network)
    if route not in valid:
        raise UserError(f"the network has no route {route}; valid: {_listed(valid)}")


def _listed(routes: Sequence[str] | set[str]) -> str:
    return ", ".join(name for name in NAMES if name in routes)
