"""Training of one stage, without Lightning where there is nothing to train."""

from typing import Any

from relinearize.methods.stage.stage import Stage


def fit(stage: Stage, *arguments: Any, **settings: Any) -> None:
    """Train `stage` to its end; without epochs nothing is done. For the arguments see lightning.train."""
    if stage.epochs:
        from relinearize.training import lightning  # importing Lightning takes seconds

        lightning.train(stage, *arguments, **settings)
