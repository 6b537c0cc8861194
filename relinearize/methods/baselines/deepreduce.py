"""DeepReDuce (Jha et al., ICML 2021): ReLUs go by whole layers, from the stages that need them least.

A stage is made of the sites of one map size. The paper's three steps, culled, thinned and reshaped, are one choice here
for each budget (`choose`). What they are, what is published, and what is not known and ours: docs/methods.md.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError, check_choice, check_number
from relinearize.methods.losses import accuracy
from relinearize.methods.masked_search import MaskedSearch
from relinearize.methods.scores import check_callable
from relinearize.methods.stage.snapshot import Snapshot
from relinearize.relu.budget import top_positions
from relinearize.relu.mask import Mask
from relinearize.relu.sites import site_shapes

PUBLISHED, MEASURED = "published", "measured"
RESNET18 = (3, 2, 4, 1)  # the published order: stages from the most critical one on
SHARES = (1.0, 0.5, 0.25, 0.125)  # of the channels, that a budget may lead to
STRIDES = {1: 1, 0.5: 2, 0.25: 4}  # resolution -> stride of the first convolution
KEY = "method.search"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Form:
    """One of the networks: the sites of each kept stage, the most critical stage first; `share` of all channels."""

    kept: tuple[tuple[str, ...], ...]
    thinned: bool
    share: float
    count: int


def stages(shapes: Shapes) -> list[list[str]]:
    """The sites of each map size, in forward order."""
    found: dict[tuple[int, ...], list[str]] = {}
    for name, shape in shapes.items():
        found.setdefault(tuple(shape[1:]), []).append(name)
    return list(found.values())


def second_sites(names: Sequence[str]) -> set[str]:
    """Every second of the sites of one module: the second ReLU of each block."""
    blocks = [name.rpartition(".")[0] for name in names]
    return {name for place, name in enumerate(names) if blocks[:place].count(blocks[place]) % 2}


def forms(shapes: Shapes, order: Sequence[int], shares: Sequence[float], thinned: bool | None) -> Iterator[Form]:
    """All networks with the first stages of `order` (from 1, the most critical first). thinned: None: with and without.

    Raises UserError unless `order` has every stage once.
    """
    groups, second = stages(shapes), second_sites(list(shapes))
    if sorted(order) != list(range(1, len(groups) + 1)):
        raise UserError(
            f"{KEY}.order={list(order)}: this network has {len(groups)} stages (sites of one map size); give each of "
            f"1 to {len(groups)} once, the most critical first, or {MEASURED}"
        )
    for share in shares:
        for thin in (False, True) if thinned is None else (thinned,):
            live = [tuple(name for name in groups[stage - 1] if not (thin and name in second)) for stage in order]
            for number in range(1, len(live) + 1):
                count = sum(math.prod(shapes[name]) for stage in live[:number] for name in stage)
                yield Form(tuple(live[:number]), thin, share, round(share * count))


def choose(
    shapes: Shapes,
    budget: int,
    order: Sequence[int] = RESNET18,
    *,
    shares: Sequence[float] = SHARES,
    thinned: bool | None = None,
    filled: bool = True,
    exact: bool = False,
) -> Form:
    """The network for `budget` ReLUs: `filled`: the smallest that holds it; else the largest within it.

    Among equals the widest, and of these the one that is not thinned. `shapes`: of the sites at all channels. UserError
    where there is none, and, if `exact`, where it has not `budget` ReLUs.
    """
    found = list(forms(shapes, order, shares, thinned))
    fitting = [form for form in found if (form.count >= budget if filled else form.count <= budget)]
    counts = sorted({form.count for form in found})
    if not fitting:
        raise UserError(
            f"{KEY}: whole layers of this network come to {counts[0]:,} to {counts[-1]:,} ReLUs, and the budget is "
            f"{budget:,}; give one of these, or other values of {KEY}.order, channels, resolution and thinned"
        )
    chosen = min(fitting, key=lambda form: (abs(form.count - budget), -form.share, form.thinned))
    if exact and not filled and chosen.count != budget:
        above = next((f" or {count:,}" for count in counts if count > budget), "")
        raise UserError(
            f"{KEY}.exact=true: whole layers come to {chosen.count:,}{above} ReLUs, and the budget is {budget:,}; "
            f"give one of these, or a score, or {KEY}.exact=false"
        )
    return chosen


class DeepReDuce(MaskedSearch):
    """The search stage of DeepReDuce; it trains nothing. Settings: conf/method/search/deepreduce.yaml.

    Args:
        network: all-ReLU, of the width and resolution that `reshape` makes of `channels` and `resolution`. A measured
            order is not known before the images are, so that channels are 1 then unless given.
        teacher, budget: see MaskedSearch.
    """

    least_epochs = 0
    divides = True  # decides itself which sites keep ReLUs: `allocation` cannot

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        budget: int,
        order: Sequence[int] | str = PUBLISHED,
        thinned: bool | None = None,
        channels: float | None = None,
        resolution: float = 1.0,
        score: Callable[..., dict[str, Tensor]] | None = None,
        score_images: int = 4096,
        exact: bool = False,
        batch_size: int = 128,
    ) -> None:
        super().__init__(network, teacher, budget=budget, epochs=0, batch_size=batch_size, learning_rate=0.0)
        self.take_one_of((True, False), exact=exact)
        self.take(">= 1", integer=True, score_images=score_images)
        if score is not None:
            check_callable(f"{KEY}.score", score)
        self.order, self.thinned = known_order(order, site_shapes(inner_network(network))), thinned
        self.score_of = score
        self.scores: dict[str, Tensor] = {}

    @staticmethod
    def reshape(
        shapes_at: Callable[..., Shapes],
        budget: int,
        width: int | None,
        *,
        order: Sequence[int] | str = PUBLISHED,
        thinned: bool | None = None,
        channels: float | None = None,
        resolution: float = 1.0,
        score: Any = None,
        exact: bool = False,
        **_: Any,
    ) -> dict[str, int | None]:
        """The student's width and stride, from the search's settings; see Request.

        shapes_at: from these to the shapes of the sites. width: of the teacher; None: unknown.
        """
        check_choice(f"{KEY}.thinned", thinned, (None, True, False))
        check_choice(f"{KEY}.resolution", resolution, STRIDES)
        if channels is not None:
            check_number(f"{KEY}.channels", channels, "> 0", "<= 1")
            if channels < 1 and (width is None or not (width * channels).is_integer()):
                raise UserError(f"{KEY}.channels={channels}: no network of backbone.width={width}; give another share")
        stride, shares = STRIDES[resolution], [1.0] if channels is None else [channels]
        shapes = shapes_at(student_stride=stride)
        known = known_order(order, shapes)
        if known is None and exact and score is None:
            raise UserError(f"{KEY}.exact=true needs an order of the stages that is not measured; give {KEY}.order")
        if known is None and (stride > 1 or shares != [1.0]):
            raise UserError(
                f"{KEY}.order is measured for a network of these stages, and a student with fewer channels or smaller "
                f"maps is not trained when it would be; give {KEY}.order, the most critical stage first"
            )
        if known is not None and channels is None and width is not None:
            shares = [one for one in SHARES if (width * one).is_integer()]
        order = known or smallest_first(shapes, thinned is not False)
        filled = score is not None
        share = choose(shapes, budget, order, shares=shares, thinned=thinned, filled=filled, exact=exact).share
        return {"student_width": None if share == 1 else int(width * share), "student_stride": stride}

    def measured_order(self) -> list[int]:
        """By the training accuracy that the network keeps without the ReLUs of a stage, least first."""
        full, kept = self.mask, {}
        batches = list(self.images())
        for number, stage in enumerate(stages(site_shapes(inner_network(self.network))), start=1):
            self.put_on(Mask({name: mask & (name not in stage) for name, mask in full.items()}))
            kept[number] = accuracy(self.network, batches, self.precision_name)
        self.put_on(full)
        return sorted(kept, key=kept.get)

    def images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images, and the networks on their device: without any training, nothing has moved them there yet."""
        for images, labels in self.further_batches(0, self.score_images):
            for network in (self.network, *self._frozen):
                network.to(images.device)
            yield images, labels

    def snapshot(self) -> Snapshot:
        started = time.monotonic()
        form = choose(
            site_shapes(inner_network(self.network)), self.budget, self.order or self.measured_order(), shares=(1.0,),
            thinned=self.thinned, filled=self.score_of is not None, exact=self.exact,
        )  # fmt: skip
        *whole, last = form.kept
        kept = {name: mask & any(name in stage for stage in form.kept) for name, mask in self.mask.items()}
        if form.count > self.budget:
            next(self.images())
            self.scores = self.score_of(self.network, self.images(), teacher=self._frozen[0], seed=self.seed)
            rest = self.budget - sum(self.mask[name].numel() for stage in whole for name in stage)
            kept |= top_positions({name: self.scores[name] for name in last}, rest)
        self.put_on(Mask(kept))
        self.seconds += time.monotonic() - started
        return super().snapshot()

    def position_scores(self) -> Mapping[str, Tensor]:
        return self.scores or super().position_scores()


def smallest_first(shapes: Shapes, thinned: bool) -> list[int]:
    """Stages by their ReLUs: what no order of them can have is less than the first."""
    second = second_sites(list(shapes)) if thinned else set()
    counts = [sum(math.prod(shapes[name]) for name in stage if name not in second) for stage in stages(shapes)]
    return sorted(range(1, len(counts) + 1), key=lambda stage: counts[stage - 1])


def known_order(order: object, shapes: Shapes) -> Sequence[int] | None:
    """The order that a setting means for a network, None for one that is measured. UserError for anything else."""
    if order == PUBLISHED:
        return RESNET18 if len(stages(shapes)) == len(RESNET18) else None
    if order and isinstance(order, Sequence) and not isinstance(order, str) and {type(one) for one in order} == {int}:
        return order
    check_choice(f"{KEY}.order", order, (PUBLISHED, MEASURED, "a list such as [3,2,4,1]"))
    return None
