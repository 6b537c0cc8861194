"""A pass of each score over the training images against a forward pass over the same ones, which searches repeat."""

from collections.abc import Iterator

import torch

from bench.common import Row, Settings, interleaved
from bench.steps import SIZE, batch_of, stage_of
from relinearize.methods import scores

NAMES = ("fisher", "fisher_centred", "gradient", "snip", "clipped", "negative_share", "mismatch", "relupruner")
IMAGES = 4096  # that method=progressive scores by
PROMISE = f"<= {2 * 45_000 / IMAGES:.0f}"  # two epochs' worth, of 45,000 images


def measure(settings: Settings) -> Iterator[Row]:
    """What an image costs in a pass of each score, in forward passes of the network."""
    stage = stage_of("search", settings.width, settings.batch)
    network, teacher = stage.network.eval(), stage._frozen[0]
    batches = [batch_of(settings.batch)] * (1 if settings.quick else 4)
    case = f"resnet18 width {settings.width}, batch {settings.batch}, {SIZE} pixels"

    @torch.no_grad()
    def forward() -> None:
        for images, _ in batches:
            network(images)

    for name in NAMES:
        score = getattr(scores, name)
        passes = {"forward": forward, "score": lambda score=score: score(network, batches, teacher=teacher, seed=0)}
        seconds = interleaved(passes, settings.rounds, clock=settings.clock)
        yield Row("score", case, name, seconds["score"] / seconds["forward"], "x a forward pass", PROMISE)
