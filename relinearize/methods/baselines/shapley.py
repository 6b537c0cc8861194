"""Sensitivities by Shapley values (PrivShap, TMLR 2025): what the ReLUs of a site add to the accuracy, over coalitions.

The players are the sites; the value v(S) of a coalition is the accuracy of the trained all-ReLU network whose other
sites are linearized, without any retraining. The value of a site is the mean, over random orders of all sites, of what
v gains when the site joins those before it (Castro et al. 2009); in each order the gains add up to v(all) - v(none).
"""

import time

import torch
from torch import nn

from relinearize.backbones.adapter import inner_network
from relinearize.methods.losses import accuracy
from relinearize.methods.stage.stage import Stage
from relinearize.relu.sites import named_sites


class ShapleyValues(Stage):
    """The sensitivities of sensitivity=shapley; trains nothing. Settings: conf/sensitivity/shapley.yaml.

    `network`: pixels to logits with the teacher's weights; sites are MaskedReLU that keep all their ReLUs.
    """

    name = "sensitivity"
    config_group = ""
    least_epochs = 0

    def __init__(
        self, network: nn.Module, *, permutations: int = 20, images: int = 1024, batch_size: int = 128
    ) -> None:
        self.take(">= 1", integer=True, permutations=permutations, images=images)
        super().__init__(network, epochs=0, batch_size=batch_size, learning_rate=0.0, selection="last")

    def values(self) -> dict[str, float]:
        """Site -> Shapley value in percentage points, in forward order; negative where the ReLUs of a site do harm."""
        started = time.monotonic()
        batches = list(self.further_batches(0, self.images))
        self.network.to(batches[0][0].device)  # without any training, nothing has moved it there yet
        sites = named_sites(inner_network(self.network))
        generator = torch.Generator().manual_seed(self.seed)
        everything = accuracy(self.network, batches, self.precision_name)
        for site in sites.values():
            site.mask.fill_(False)
        nothing = accuracy(self.network, batches, self.precision_name)
        gains = dict.fromkeys(sites, 0.0)
        for _ in range(self.permutations):
            before = nothing
            order = [list(sites)[index] for index in torch.randperm(len(sites), generator=generator)]
            for name in order[:-1]:
                sites[name].mask.fill_(True)
                after = accuracy(self.network, batches, self.precision_name)
                gains[name] += after - before
                before = after
            gains[order[-1]] += everything - before
            for site in sites.values():
                site.mask.fill_(False)
        for site in sites.values():
            site.mask.fill_(True)
        self.seconds += time.monotonic() - started
        return {name: gain / self.permutations for name, gain in gains.items()}

    def sensitivities(self) -> dict[str, float]:
        """Site -> its value, 0 where it is negative. All sites alike where none is above 0."""
        values = {name: max(0.0, value) for name, value in self.values().items()}
        return values if any(values.values()) else dict.fromkeys(values, 1.0)
