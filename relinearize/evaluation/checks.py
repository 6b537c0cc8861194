"""The sanity checks of a subject (robustness/sanity.py), each a piece of the evaluation."""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from relinearize.evaluation.pieces import Part, Piece, Result
from relinearize.evaluation.settings import RobustSettings
from relinearize.evaluation.subject import Subject
from relinearize.evaluation.teacher import teacher_of
from relinearize.records.robustness import CheckRecord, CleanAccuracy
from relinearize.robustness.sanity import CHECKS, FACTORS, FATAL_RADIUS, Case, Check, clean_agreement, transfer

# Forward passes an image, where it is not about PGD-20 once or twice; for the progress bar.
COSTS = {"epsilon sweep": 420, "steps": 570, "restarts": 300, "black box": 1000, "transfer": 120}
USUAL_COST = 60


def checks_part(subject: Subject, others: Sequence[Subject], settings: RobustSettings) -> Part:
    """All checks on the first `settings.n_checks` images; `others`: the other routes of the checkpoint.

    Without other routes attacks are transferred from the run's teacher, if the store still has it.
    """
    epsilon, count = settings.epsilon, settings.n_checks
    pieces = []

    @cache  # the images are loaded, and PGD-20 done, when the first check asks for them
    def case() -> Case:
        return Case(subject.network, *subject.batch(subject.order[:count]), epsilon, subject.seed)

    def add(name: str, check: Callable[[Case], Check], **further: Any) -> None:
        what = {"kind": "check", "check": name, "epsilon": epsilon, "n": count, "seed": subject.seed, **further}
        what |= revision(name, epsilon)

        def compute() -> Result:
            start = time.perf_counter()
            found = check(case())
            record = CheckRecord(
                name=found.name, passed=bool(found.passed), message=found.message, numbers=dict(found.numbers)
            )
            return {"check": record.model_dump(mode="json"), "seconds": time.perf_counter() - start}

        units = min(count, len(subject.images)) * COSTS.get(name, USUAL_COST)
        pieces.append(Piece(f"check {name}", what, units, compute))

    add("clean agreement", lambda case: clean_agreement(case.network, case.images, by_hand(subject)))
    for name, check in CHECKS.items():
        add(name, check)
    others = {f"route {other.run.record.route}": (other.network, other.run.identity["weights"]) for other in others}
    if not others and (teacher := teacher_of(subject.run)):
        others = {"its teacher": (teacher.network.to(subject.device), teacher.weights)}
    if others:
        networks = {name: network for name, (network, _) in others.items()}
        identities = [digest for _, digest in others.values()]
        add("transfer", partial(transfer, others=networks), others=identities)
    return Part(pieces, lambda results: [CheckRecord.model_validate(result["check"]) for result in results])


def revision(name: str, epsilon: float) -> dict[str, Any]:
    """What tells a check from what an earlier program filed under the same settings, where that was another."""
    revised = {"epsilon sweep": max(FACTORS) * epsilon < FATAL_RADIUS}
    return {"revision": 2} if revised.get(name) else {}


def by_hand(subject: Subject) -> Callable[[Tensor], Tensor]:
    """The network with its pixels normalised as the run's config says, outside of the adapter."""
    mean, std = (
        torch.tensor(list(subject.run.config.dataset[key]), device=subject.device).view(1, -1, 1, 1)
        for key in ("mean", "std")
    )

    @torch.no_grad()
    def logits(pixels: Tensor) -> Tensor:
        return subject.network.network((pixels - mean) / std)

    return logits


def clean_accuracy_check(subject: Subject, clean: CleanAccuracy) -> CheckRecord | None:
    """Is what is attacked the network whose accuracy the run recorded? None where not all test images were looked at.

    One image in a thousand may come out differently on another device.
    """
    recorded = subject.run.record.accuracy
    if clean.n != recorded.n_test:
        return None
    passed = abs(clean.accuracy - recorded.test) <= max(0.1, 100 / clean.n) + 1e-6
    message = f"{clean.accuracy:.2f} % of the test images, the run's record says {recorded.test:.2f} %"
    numbers = {"measured": clean.accuracy, "recorded": recorded.test}
    return CheckRecord(name="clean accuracy", passed=passed, message=message, numbers=numbers)
