"""Exact budgets: the top of 1.4 million scores (WRN-22-8 has 1.39 million ReLUs) as a mask."""

from collections.abc import Iterator

import torch

from bench.common import Row, Settings, interleaved
from relinearize.relu.budget import top_mask

SITES, POSITIONS = 20, 70_000


def measure(settings: Settings) -> Iterator[Row]:
    """Milliseconds of top_mask and its time relative to torch.topk alone, distinct scores and many ties."""
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(SITES, POSITIONS, generator=generator)
    for kind, values in (("distinct", random), ("many ties", (random * 8).round())):
        scores = {f"site{index}": row.clone() for index, row in enumerate(values)}
        flat = values.flatten()
        for budget in (15_000, 700_000):
            variants = {
                "ours": lambda scores=scores, budget=budget: top_mask(scores, budget),
                "topk": lambda flat=flat, budget=budget: torch.topk(flat, budget, sorted=False),
            }
            seconds = interleaved(variants, settings.rounds, clock=settings.clock)
            case = f"{SITES * POSITIONS:,} {kind} scores, budget {budget:,}"
            yield Row("topk", case, "top_mask", 1000 * seconds["ours"], "ms", "milliseconds")
            yield Row("topk", case, "against torch.topk alone", seconds["ours"] / seconds["topk"], "x its time")
