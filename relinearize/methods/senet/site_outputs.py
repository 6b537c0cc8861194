"""What the sites of a network put out during a forward pass, for losses and measures that compare two networks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError


class SiteOutputs:
    """Sees the output of the modules `names` of `network` (those within its pixel adapter, if it has one).

    The names are those of sites; in a frozen copy of the network the modules of these names are seen. Hooks are
    registered once and for all, before the network is compiled, and do nothing outside of `watching()`:

        outputs = SiteOutputs(network, names)
        with outputs.watching():
            logits = network(images)
        outputs.values["layer1.0.relu1"]  # N x C x H x W, with its graph

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

    def _hook(self, name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        def look(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if not self.on:
                return
            if self.take is None:
                self.values[name] = output
            else:
                self.take(name, inputs[0], output)

        return look
