"""Structured pruning: whole filters go, and the ReLUs of their channels with them.

A channel that goes is the constant 0 behind its site (docs/methods.md): a mask of whole channels with `zero` at removed
positions (relu/replacement.py). In front of a site inside a block this is the filter and its batch norm set to zero; at
a site behind an addition the shortcut's part of the channel goes, too.

Every site keeps the same share of its channels, at least one, those of the most important filters in the layer in front
of it:

    l1                  sum |w|                                     (Li et al., ICLR 2017)
    l2                  (sum w^2)^1/2
    geometric_median    sum of the distances to the other filters of the layer: what lies in their midst can be replaced
                        (He et al., CVPR 2019)
    learned             one of the three for each layer (LFPC, He et al., CVPR 2020): logits per layer are trained by
                        Gumbel-softmax, weights fixed. A step's channels are the criteria's selections weighted by

                            softmax((logits + Gumbel noise) / tau),

                        the loss is cross-entropy and distillation; in the end each layer takes its largest logit.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError
from relinearize.methods.masked_search import MaskedSearch
from relinearize.methods.senet.sparse_training import site_layers
from relinearize.methods.stage.snapshot import Snapshot
from relinearize.relu.allocation import allocate_channels
from relinearize.relu.budget import top_positions
from relinearize.relu.mask import Mask
from relinearize.relu.replacement import COEFFICIENTS
from relinearize.relu.sites import named_sites, site_shapes

CRITERIA = ("l1", "l2", "geometric_median")
LEARNED = "learned"


def importances(weight: Tensor, criterion: str) -> Tensor:
    """One value per filter of `weight` (filters x ...), by a criterion of CRITERIA."""
    filters = weight.detach().flatten(1).float().cpu()
    if criterion == "l1":
        return filters.abs().sum(1)
    if criterion == "l2":
        return filters.norm(dim=1)
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def channel_counts(shapes: Mapping[str, tuple[int, ...]], budget: int) -> dict[str, int]:
    """Channels per site: at least one, beyond that the same share everywhere, whose positions sum to at most `budget`.

    UserError where one channel at each site is more than that.
    """
    ones = {name: 1 for name in shapes}
    maps = {name: int(torch.Size(shape[1:]).numel()) for name, shape in shapes.items()}
    rest = budget - sum(maps.values())
    if rest < 0:
        raise UserError(
            f"method.search: one channel at each of the {len(maps)} sites has {sum(maps.values()):,} ReLUs, and the "
            f"budget is {budget:,}; give at least that"
        )
    further = {name: (shape[0] - 1, *shape[1:]) for name, shape in shapes.items() if shape[0] > 1}
    if not further or rest < min(maps[name] for name in further):
        return ones
    sizes = {name: float(shape[0] * maps[name]) for name, shape in further.items()}
    return ones | {name: 1 + number for name, number in allocate_channels(further, sizes, rest).items()}


class FilterPruning(MaskedSearch):
    """The search stage of method=filter_pruning. Settings: conf/method/search/filter_pruning.yaml.

    Args:
        network: all-ReLU, starts from the teacher's weights, which stay (batch-norm statistics follow the selections).
        teacher, budget: see MaskedSearch; whole channels come to the budget or to the next lower count that they reach.
    """

    least_epochs = 0
    hooked = True
    UNUSED = ("momentum", "weight_decay")  # of Adam
    replacement = "zero"  # what stands at removed positions: the weights that it leaves have the coefficients
    divides = True  # decides itself how many ReLUs each site keeps: `allocation` cannot

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        budget: int,
        criterion: str = "l1",
        exact: bool = False,
        criterion_epochs: int = 10,
        gumbel_temperature: float = 1.0,
        **settings: Any,
    ) -> None:
        self.take_one_of((*CRITERIA, LEARNED), criterion=criterion)
        self.take_one_of((True, False), exact=exact)
        self.take(">= 1", integer=True, criterion_epochs=criterion_epochs)
        self.take("> 0", gumbel_temperature=gumbel_temperature)
        epochs = criterion_epochs if criterion == LEARNED else 0
        super().__init__(network, teacher, budget=budget, epochs=epochs, **settings)
        self.shapes = site_shapes(inner_network(network))
        self.counts = channel_counts(self.shapes, budget)
        reached = sum(self.counts[name] * int(torch.Size(shape[1:]).numel()) for name, shape in self.shapes.items())
        if exact and reached != budget:
            raise UserError(
                f"{self.config_key}.exact=true: whole channels come to {reached:,} ReLUs, and the budget is "
                f"{budget:,}; give budget.relus={reached} or {self.config_key}.exact=false"
            )
        self.layers: dict[str, str] = {}  # site -> the layer in front of it
        self.selections: dict[str, Tensor] = {}  # site -> criteria x channels, 1.0: the criterion keeps the channel
        if criterion == LEARNED:
            network.requires_grad_(False)
            self.logits = nn.Parameter(torch.zeros(len(self.shapes), len(CRITERIA)))

    def use(self, **given: Any) -> None:
        super().use(**given)
        images, _ = next(self.further_batches(0, 1))
        example = next(self.network.parameters())
        self.prepare(images[:1].to(device=example.device, dtype=example.dtype))

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        super().rehearse(images, labels)
        self.prepare(images[:1])

    def prepare(self, sample: Tensor) -> None:
        """Find the filters in front of each site by running `sample` (1 x C x H x W), and what each criterion keeps."""
        if self.layers:
            return
        self.layers = site_layers(self.network, sample, direct=True)
        for name, layer in self.layers.items():
            weight = inner_network(self.network).get_submodule(layer).weight
            if len(weight) != self.shapes[name][0]:
                raise UserError(
                    f"{self.config_key}: site {name} has {self.shapes[name][0]} channels, but layer {layer} in front "
                    f"of it {len(weight)} filters; this network cannot be pruned by filters"
                )
            kept = [top_positions({name: importances(weight, one)}, self.counts[name])[name] for one in CRITERIA]
            self.selections[name] = torch.stack(kept).float()
        # Hooks last of all: a copy of the network would copy them, hence this stage and the images.
        if self.criterion == LEARNED:
            for place, (name, site) in enumerate(named_sites(inner_network(self.network)).items()):
                site.register_forward_hook(partial(self.select, name, place))

    # ---- learned criteria --------------------------------------------------------------------------------------------

    def select(self, name: str, place: int, site: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The channels of a site as the criteria keep them: mixed in training, as chosen otherwise."""
        logits = self.logits[place]
        if site.training:
            shares = F.gumbel_softmax(logits, tau=self.gumbel_temperature, dim=0)
        else:
            shares = F.one_hot(logits.argmax(), len(CRITERIA)).to(logits)
        kept = shares @ self.selections[name].to(logits.device)
        return output * kept.view(-1, *[1] * (output.dim() - 2)).to(output.dtype)

    def configure_optimizers(self) -> optim.Optimizer:
        return optim.Adam([self.logits], lr=self.base_learning_rate)

    def epoch_end(self, row: dict[str, float]) -> None:
        super().epoch_end(row)
        chosen = list(self.criteria.values())
        row |= {f"criterion/{one}": chosen.count(one) for one in CRITERIA}

    @property
    def criteria(self) -> dict[str, str]:
        """Site -> its criterion."""
        if self.criterion != LEARNED:
            return dict.fromkeys(self.shapes, self.criterion)
        return {name: CRITERIA[int(logits.argmax())] for name, logits in zip(self.shapes, self.logits, strict=True)}

    # ---- the result --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        kept = {}
        for name, criterion in self.criteria.items():
            channels = self.selections[name][CRITERIA.index(criterion)].bool()
            shape = self.shapes[name]
            kept[name] = channels.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        self.put_on(Mask(kept))
        return super().snapshot()

    def weights(self) -> dict[str, Tensor]:
        zeros = {f"{name}.{COEFFICIENTS}": torch.zeros(1, *shape) for name, shape in self.shapes.items()}
        return super().weights() | zeros
