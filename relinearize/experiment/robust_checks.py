"""The sanity checks of a subject (robustness/sanity.py), each a piece of the evaluation."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.experiment.evaluation_options import RobustSettings
from relinearize.experiment.robust_records import CheckRecord
from relinearize.experiment.robust_subject import Piece, Subject
from relinearize.robustness.network_checks import Check, clean_agreement
from relinearize.robustness.sanity import CHECKS, FACTORS, FATAL_RADIUS, transfer

# Forward passes an image, where it is not about PGD-20 once or twice; for the progress bar.
COSTS = {"epsilon sweep": 420, "steps": 300, "restarts": 360, "black box": 1060, "transfer": 180}
USUAL_COST = 60


def check_pieces(subject: Subject, others: Sequence[Subject], settings: RobustSettings) -> list[Piece]:
    """All checks on the first `settings.n_checks` images; `others`: the other routes of the checkpoint."""
    epsilon, count = settings.epsilon, settings.n_checks
    pieces = []

    def add(name: str, check: Callable[[Tensor, Tensor], Check], **further: Any) -> None:
        what = {"kind": "check", "check": name, "epsilon": epsilon, "n": count, "seed": subject.seed, **further}
        what |= revision(name, epsilon)

        def compute() -> dict[str, Any]:
            start = time.perf_counter()
            found = check(*subject.batch(subject.order[:count]))
            record = CheckRecord(
                name=found.name, passed=bool(found.passed), message=found.message, numbers=dict(found.numbers)
            )
            return {"check": record.model_dump(mode="json"), "seconds": time.perf_counter() - start}

        units = min(count, len(subject.images)) * COSTS.get(name, USUAL_COST)
        pieces.append(Piece(f"check {name}", what, units, compute))

    add("clean agreement", lambda pixels, _: clean_agreement(subject.network, pixels, by_hand(subject)))
    for name, function in CHECKS.items():
        add(name, partial(called, subject, function, epsilon))
    if others:
        identities = [other.run.identity["weights"] for other in others]
        add("transfer", partial(called, subject, partial(across, others), epsilon), others=identities)
    return pieces


def revision(name: str, epsilon: float) -> dict[str, Any]:
    """What tells a check from what an earlier program filed under the same settings, where that was another."""
    revised = {"epsilon sweep": max(FACTORS) * epsilon < FATAL_RADIUS}
    return {"revision": 2} if revised.get(name) else {}


def called(subject: Subject, check: Callable[..., Check], epsilon: float, pixels: Tensor, labels: Tensor) -> Check:
    return check(subject.network, pixels, labels, epsilon=epsilon, seed=subject.seed)


def across(others: Sequence[Subject], network: nn.Module, pixels: Tensor, labels: Tensor, **settings: Any) -> Check:
    """Attacks made on the other routes against this one."""
    networks = {f"route {other.run.record.route}": other.network for other in others}
    return transfer(network, pixels, labels, networks, **settings)


def by_hand(subject: Subject) -> Callable[[Tensor], Tensor]:
    """The network with its pixels normalised as the run's config says, outside of the adapter."""
    mean, std = (
        torch.tensor(list(subject.run.config.dataset[key]), device=subject.device).view(1, -1, 1, 1)
        for key in ("mean", "std")
    )

    @torch.no_grad()
    def answer(pixels: Tensor) -> Tensor:
        return subject.network.network((pixels - mean) / std)

    return answer


def check_records(results: Sequence[dict[str, Any]]) -> list[CheckRecord]:
    """Of the results of `check_pieces`."""
    return [CheckRecord.model_validate(result["check"]) for result in results]
