"""Which layer's weights lead into which site."""

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError
from relinearize.relu.sites import named_sites

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def site_layers(network: nn.Module, sample: Tensor) -> dict[str, str]:
    """Site -> the layer (convolution or linear) in front of it, both by their names in the inner network.

    In front of a site: of the layers that run between the previous site and this one, that with the most weights (among
    equals the earlier). Shortcuts are left out: layers that read what a layer before the previous site has read. A site
    without a layer of its own gets the previous site's (the first ones: the next site's). Found by running `sample`
    (N x C x H x W, pixels) once, in eval mode and without gradients.

    Raises UserError where no layer leads into any site.
    """
    inner = inner_network(network)
    found: dict[str, str] = {}
    since: list[tuple[str, int, torch.UntypedStorage]] = []  # layers since the last site: name, weights, what was read
    read: list[torch.UntypedStorage] = []  # by layers before it; held, so that none of the memory is used again

    def saw_layer(name: str, layer: nn.Module, given: Tensor) -> None:
        since.append((name, layer.weight.numel(), given.untyped_storage()))

    def saw_site(name: str) -> None:
        before = {storage.data_ptr() for storage in read}
        candidates = [entry for entry in since if entry[2].data_ptr() not in before] or since
        if candidates:
            found[name] = max(candidates, key=lambda entry: entry[1])[0]
        elif found:
            found[name] = found[next(reversed(found))]
        read.extend(entry[2] for entry in since)
        since.clear()

    handles = [
        module.register_forward_hook(lambda layer, inputs, _, name=name: saw_layer(name, layer, inputs[0]))
        for name, module in inner.named_modules()
        if isinstance(module, LAYERS)
    ]
    sites = named_sites(inner)
    handles += [site.register_forward_hook(lambda *_, name=name: saw_site(name)) for name, site in sites.items()]
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()(sample)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if not found:
        raise UserError("no convolution or linear layer leads into any site, so sensitivity=computed has no densities")
    first = next(iter(found.values()))
    return {name: found.get(name, first) for name in sites}
