"""SENet's mask search (Kundu et al., ICLR 2023, stage 2): keep the ReLUs where linearizing would change most.

Each site keeps as many ReLUs as its sensitivity allots (relu/allocation.py). Which ones is found in epochs: the
student trains under the present mask with

    L = gamma * CE(student, y) + alpha * T^2 KL(softmax(teacher / T) || softmax(student / T))

while the mismatch D_l of its activations with the all-ReLU teacher's is summed per position (mismatch.py); after the
epoch each site's mask becomes the positions of largest D_l. The budget is met after every epoch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError
from relinearize.methods.masked_search import MaskedSearch
from relinearize.methods.senet.mismatch import MEASURES, Mismatch
from relinearize.methods.stage.snapshot import Snapshot
from relinearize.processes import sum_in_first, sum_over_processes, zero_unless_first
from relinearize.relu.allocation import allocate, allocate_channels
from relinearize.relu.budget import channel_mask, site_mask
from relinearize.relu.mask import Mask
from relinearize.relu.sites import site_shapes

CHOICES = {
    "mismatch": MEASURES,
    "granularity": ("position", "channel"),
    "initial_mask": ("exact", "spatial"),
    "top": ("exact", "strict"),
    "start": ("teacher", "scratch"),
}
# What SENet's official code does (ICLR 2023), as values of the switches.
PARITY = {"mismatch": "activation", "initial_mask": "spatial", "top": "strict", "start": "scratch"}
STAGE_PARITY = {"schedule": "constant", "selection": "test"}


def spatial_mask(shapes: Mapping[str, tuple[int, ...]], counts: Mapping[str, int], generator: torch.Generator) -> Mask:
    """The official initial mask: each place of a map is kept with probability n_l / N_l, the same in all channels.

    The counts are met in expectation only.
    """
    kept = {}
    for name, shape in shapes.items():
        share = counts[name] / torch.Size(shape).numel()
        kept[name] = (torch.rand(shape[1:], generator=generator) < share).expand(shape).contiguous()
    return Mask(kept)


def strict_mask(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
    """The official choice: scores strictly above the n_l-th largest, so n_l - 1 positions, and fewer where it ties."""
    kept = {}
    for name, score in scores.items():
        flat = score.detach().reshape(-1).cpu()
        threshold = torch.topk(flat, counts[name]).values[-1] if counts[name] else flat.max()
        kept[name] = (flat > threshold).view(score.shape)
    return Mask(kept)


def hamming_distance(mask: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The Hamming distance of two masks over its largest value: 0 for equal masks, 1 where no kept ReLU is the same.

    Of masks with B kept positions each, the share of the kept ones that moved: differing positions / (2 B).
    """
    kept = sum(int(one.sum() + other[name].sum()) for name, one in mask.items())
    return sum(int((one != other[name]).sum()) for name, one in mask.items()) / max(1, kept)


def site_distances(mask: Mask, other: Mask) -> dict[str, float]:
    """Site -> `hamming_distance` of what two masks keep there; 0 where they keep nothing."""
    return {name: hamming_distance({name: kept}, other) for name, kept in mask.items()}


class SENetSearch(MaskedSearch):
    """The search stage of SENet, for one budget. Settings: conf/method/search/senet.yaml.

    Args:
        network: sites are MaskedReLU. teacher: frozen all-ReLU network with the same sites.
        sensitivities: eta_l per site, None for a culled site; the allotment is min(N_l, c * eta_l), summing to
            `budget`.
    """

    FIXED: Mapping[str, Any] = {}
    SAVED = (*MaskedSearch.SAVED, "settled_epochs", "mismatch.sums")
    allocated = True  # is given sensitivities and one budget, see runs/search.py

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        sensitivities: Mapping[str, float | None],
        budget: int,
        cross_entropy_weight: float = 0.5,
        distillation_weight: float = 0.5,
        mismatch: str = "linear",
        granularity: str = "position",
        initial_mask: str = "exact",
        top: str = "exact",
        start: str = "teacher",
        paper_parity: bool = False,
        stop_distance: float | None = None,
        stop_patience: int = 3,
        **settings: Any,
    ) -> None:
        switches = {
            "mismatch": mismatch,
            "granularity": granularity,
            "initial_mask": initial_mask,
            "top": top,
            "start": start,
        }
        if paper_parity:
            switches, settings = switches | PARITY, settings | STAGE_PARITY
        weights = {"cross_entropy_weight": cross_entropy_weight, "distillation_weight": distillation_weight}
        super().__init__(network, teacher, budget=budget, **weights, **settings)
        for key, value in switches.items():
            self.take_one_of(CHOICES[key], **{key: value})
        self.take_one_of((True, False), paper_parity=paper_parity)
        self.take(">= 0", "<= 1", optional=True, stop_distance=stop_distance)
        self.take(">= 1", integer=True, stop_patience=stop_patience)
        for key in ("top", "initial_mask"):
            if self.granularity == "channel" and getattr(self, key) != "exact":
                remedy = "method.search.paper_parity=false" if paper_parity else f"method.search.{key}=exact"
                raise UserError(f"method.search.granularity=channel keeps exact counts; give {remedy}")
        self.shapes = site_shapes(inner_network(network))
        if self.granularity == "channel":  # what each site keeps: channels, or positions
            self.counts = allocate_channels(self.shapes, sensitivities, budget)
        else:
            sizes = {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}
            self.counts = allocate(sizes, sensitivities, budget)
        self.mismatch = Mismatch(network, teacher, self.shapes, switches["mismatch"])
        self.distance, self.distances = 1.0, {name: 1.0 for name in self.shapes}
        self.settled_epochs = 0

    def mask_of(self, scores: Mapping[str, Tensor]) -> Mask:
        """The positions (or channels) of largest score at each site, as many as allotted."""
        if self.granularity == "channel":
            return channel_mask(scores, self.counts)
        return site_mask(scores, self.counts) if self.top == "exact" else strict_mask(scores, self.counts)

    def first_mask(self, seed: int) -> Mask:
        """The random mask of the first epoch, a function of `seed`."""
        generator = torch.Generator().manual_seed(seed)
        if self.initial_mask == "spatial":
            return spatial_mask(self.shapes, self.counts, generator)
        scores = {name: torch.rand(shape, generator=generator).double() for name, shape in self.shapes.items()}
        return channel_mask(scores, self.counts) if self.granularity == "channel" else site_mask(scores, self.counts)

    def use(self, *, seed: int, **settings: Any) -> None:
        super().use(seed=seed, **settings)
        self.put_on(self.first_mask(seed))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.mismatch.to(self.device)
        zero_unless_first(self.mismatch.sums.values())  # those of a checkpoint are of all processes

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.logit_loss(*self.mismatch.logits(images), labels)

    def segment_end(self, last_of_epoch: bool) -> None:
        if not last_of_epoch:
            sum_in_first(self.mismatch.sums.values())
            return
        sum_over_processes(self.mismatch.sums.values())
        before = self.mask
        self.put_on(self.mask_of(self.mismatch.sums))
        self.mismatch.reset()
        self.distance, self.distances = hamming_distance(before, self.mask), site_distances(before, self.mask)
        settled = self.stop_distance is not None and self.distance <= self.stop_distance
        self.settled_epochs = self.settled_epochs + 1 if settled else 0
        if self.settled_epochs >= self.stop_patience:
            self.trainer.should_stop = True

    def epoch_end(self, row: dict[str, float]) -> None:
        row["relu/count"], row["mask/distance"] = self.mask.count, self.distance
        row |= {f"mask/distance/{name}": distance for name, distance in self.distances.items()}
        if self.best["epoch"] == row["epoch"]:  # the validation has just chosen these weights, under this mask
            self.best["mask"] = dict(self.mask)

    @property
    def fewest_epochs(self) -> int:
        return self.epochs if self.stop_distance is None else min(self.stop_patience, self.epochs)

    def snapshot(self) -> Snapshot:
        """The result: the selected mask and the weights that belong to it."""
        weights, _ = self.selected()
        mask = self.mask if self.selection == "last" else Mask(self.best.get("mask", self.mask))
        return Snapshot(self.budget, mask, weights, True, self.seconds, list(self.history))
