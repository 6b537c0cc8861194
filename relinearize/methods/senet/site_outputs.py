"""The outputs of a network's sites in a forward pass, for losses and measures that compare two networks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError


class Outputs(NamedTuple):
    """What a network computes for N images: logits N x classes and, by site, outputs N x C x H x W."""

    logits: Tensor
    sites: dict[str, Tensor]


class SiteOutputs:
    """Hooks on the modules `names` of `network` (those within its pixel adapter, if it has one).

    The names are those of sites; a frozen copy of the network has modules of the same names. Hooks are registered once,
    before the network is compiled, and do nothing outside of `watching()`:

        outputs = SiteOutputs(network, names)
        logits, sites = outputs.run(network, images)
        sites["layer1.0.relu1"]  # N x C x H x W, with its graph

    Args:
        take: called with (name, input, output) in the order of the calls, instead of keeping the output in `values`.

    Raises UserError for a name that the network does not have.
    """

    def __init__(
        self, network: nn.Module, names: Iterable[str], take: Callable[[str, Tensor, Tensor], None] | None = None
    ) -> None:
        self.values: dict[str, Tensor] = {}
        self.take = take
        self.on = False
        modules = dict(inner_network(network).named_modules())
        for name in names:
            if name not in modules:
                raise UserError(f"the network has no site {name}; `relinearize count` lists its sites")
            modules[name].register_forward_hook(self._hook(name))

    @contextmanager
    def watching(self) -> Iterator["SiteOutputs"]:
        """Look at the forward passes inside; what was kept of former ones is dropped at the start."""
        self.values.clear()
        self.on = True
        try:
            yield self
        finally:
            self.on = False

    def run(self, network: nn.Module, images: Tensor) -> Outputs:
        """One forward pass of `network`, whose modules these hooks are on."""
        with self.watching():
            logits = network(images)
        sites = dict(self.values)
        self.values.clear()  # nothing but the result keeps the graph alive
        return Outputs(logits, sites)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        def look(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if not self.on:
                return
            if self.take is None:
                self.values[name] = output
            else:
                self.take(name, inputs[0], output)

        return look
