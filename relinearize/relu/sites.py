"""The sites of a network: make them, find them, change their kind."""

import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.relu.activation import MaskedReLU, ReplacedReLU, SlopedReLU
from relinearize.relu.copies import copied, unwrapped, with_weights
from relinearize.relu.probe import Probe, does_the_same, listed, probe
from relinearize.relu.replacement import COEFFICIENTS
from relinearize.relu.tracing import traced_with_sites

Site = MaskedReLU | SlopedReLU


def linearize(model: nn.Module, input_size: Sequence[int]) -> nn.Module:
    """A copy of `model` in which every ReLU call is a site of its own, with a full mask; `model` stays as it is.

    `input_size` is (C, H, W), or (F,) for flat input, without batch. Weights keep their names in the state dict
    (those that inference does not use may be left out, with a warning).

    The model is run once on random input to see its ReLU calls. Where each comes from an nn.ReLU module that is called
    once, these modules are swapped and the copy keeps the user's class. Otherwise (functional or in-place calls, one
    module called twice) the inference graph is traced with torch.fx and each call becomes a site.

    Networks inside of DataParallel, DistributedDataParallel and torch.compile are taken out of it.

    Raises UserError where the network has no ReLU, has other activations (ReLU6, GELU, ...), cannot be traced, does not
    compute the same afterwards, in eval and in train mode, writes over a ReLU's input after that ReLU, or gives two
    outputs for one input in eval mode.
    """
    if any(isinstance(module, Site) for module in model.modules()):
        raise UserError("the network is already linearized")
    model = with_weights(model)
    found = probe(model, input_size)
    network = _swapped(model, found) if found.modules_called_once else None
    if network is None or not does_the_same(network, found, traced=False):
        network = traced_with_sites(model, found)
        kept = network.state_dict()
        if left_out := [name for name in model.state_dict() if name not in kept]:
            warnings.warn(f"weights that inference does not use are left out: {listed(left_out)}", stacklevel=2)
    _restore_modes(model, network)
    return network


def named_sites(network: nn.Module) -> dict[str, Site]:
    """The sites of `network` by name, in forward order; without what DistributedDataParallel or torch.compile add."""
    sites = [(name, module) for name, module in unwrapped(network).named_modules() if isinstance(module, Site)]
    return dict(sorted(sites, key=lambda site: site[1].index))


def site_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each site (C, H, W), in forward order."""
    return {name: tuple(_values(site).shape) for name, site in named_sites(network).items()}


def slopes(network: nn.Module) -> dict[str, nn.Parameter]:
    """The alphas of the sites, in forward order. Raises ValueError where a site is no SlopedReLU."""
    sites = named_sites(network)
    if not all(isinstance(site, SlopedReLU) for site in sites.values()):
        raise ValueError("this search needs a network whose sites are SlopedReLU; see relinearize.relu.to_sloped")
    return {name: site.alpha for name, site in sites.items()}


def to_sloped(network: nn.Module, kind: type[SlopedReLU] = SlopedReLU) -> None:
    """Turn every MaskedReLU into a SlopedReLU with alpha = 1, in place, on the same device (SNL's search starts so).

    `kind`: a subclass to turn them into.
    """
    for name, site in named_sites(network).items():
        if isinstance(site, MaskedReLU):
            _replace(network, name, kind(site.mask.shape, site.index).to(site.mask.device))


def to_masked(network: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Turn every site into a MaskedReLU that carries its part of `mask` (a `Mask`), in place, on the same device.

    What stands at removed positions stays.
    """
    mask.check_fits(site_shapes(network))
    for name, site in named_sites(network).items():
        if isinstance(site, ReplacedReLU):
            site.mask.copy_(mask[name])
            continue
        masked = MaskedReLU(_values(site).shape, site.index).to(_values(site).device)
        masked.mask.copy_(mask[name])
        _replace(network, name, masked)


def to_replaced(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Turn the masked sites whose `SITE.coefficients` are among `weights` into ReplacedReLUs with these, in place.

    Raises UserError where these are not coefficients of the site (relu/replacement.py).
    """
    for name, site in named_sites(network).items():
        coefficients = weights.get(f"{name}.{COEFFICIENTS}")
        if coefficients is None:
            continue
        try:
            replaced = ReplacedReLU(coefficients, site.mask.shape, site.index).to(site.mask.device)
        except ValueError as error:
            raise UserError(f"site {name} cannot be replaced: {error}") from error
        replaced.mask.copy_(site.mask)
        _replace(network, name, replaced)


def _values(site: Site) -> Tensor:
    return site.mask if isinstance(site, MaskedReLU) else site.alpha


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of that at `name`, in its mode and under every name which it has in `network`."""
    network = unwrapped(network)
    old = network.get_submodule(name)
    module.train(old.training)
    for path, other in list(network.named_modules(remove_duplicate=False)):
        if other is old:
            network.set_submodule(path, module)


def _swapped(model: nn.Module, found: Probe) -> nn.Module:
    network = copied(model)
    for index, call in enumerate(found.calls):
        site = MaskedReLU(call.shape, index).to(found.device)
        if call.module == "":  # the model is a single nn.ReLU
            return nn.Sequential(site)
        _replace(network, call.module, site)
    return network


def _restore_modes(model: nn.Module, network: nn.Module) -> None:
    """Set train or eval of each module as in `model`; modules that `model` has not follow their owner."""
    modes = {name: module.training for name, module in model.named_modules(remove_duplicate=False)}
    network.training = model.training
    for name, module in network.named_modules():
        if name not in modes:
            modes[name] = modes[name.rpartition(".")[0]]
        module.training = modes[name]
