"""Clean and attacked accuracy of a subject, in pieces: one chunk of images each."""

import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from relinearize.evaluation.pieces import Part, Piece, Result, flags_to_text, piece_seed, share
from relinearize.evaluation.subject import Subject
from relinearize.records.robustness import AttackRecord, CheckRecord, CleanAccuracy
from relinearize.robustness.robust_accuracy import attacked_batch

PASSES = 3  # of a step: forward and backward, in forward passes
UNSAID_STEPS = 400  # AutoAttack takes about 20 times as long as PGD-20
# Images attacked at once. Attacks go on with the few that are still right: with smaller chunks an AutoAttack that
# leaves 5 % took 110 s for 25 images on a CPU, nearly all of it for one of them.
CHUNK = {"cpu": 125, "cuda": 1000}


def clean_part(subject: Subject, count: int | None, batch_size: int) -> Part:
    """The accuracy on the first `count` images (None: all), in the batches of the run's own test: a CleanAccuracy."""

    def right(rows: torch.Tensor) -> Result:
        start = time.perf_counter()
        flags = subject.right(*subject.batch(rows))
        return {"right": flags_to_text(flags), "seconds": time.perf_counter() - start}

    def summary(results: Sequence[Result]) -> CleanAccuracy:
        accuracy, number = share(results)
        return CleanAccuracy(accuracy=accuracy, n=number)

    which = subject.which(count)
    pieces = [
        Piece(
            "clean", {"kind": "clean", "rows": which, "first": first, "n": len(rows)}, len(rows), partial(right, rows)
        )
        for first, rows in chunks(subject.rows(count), batch_size)
    ]
    return Part(pieces, summary)


def attack_part(
    subject: Subject, name: str, attack: Any, settings: dict[str, Any], count: int | None, chunk: int
) -> Part:
    """The accuracy on the first `count` images (None: all) under `attack`, which was made of `settings`.

    Its outcome: an AttackRecord and, where the attack complained, a CheckRecord. The seed of a chunk is a function of
    (evaluation.seed, `name`, place of its first image).
    """
    description = attack.describe()
    epsilon = None if description["epsilon"] is None else description["epsilon"] / 255

    def attacked(rows: torch.Tensor, seed: int) -> Result:
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = attacked_batch(subject.network, *subject.batch(rows), attack, seed, epsilon)
        return {
            "right": flags_to_text(result.robust),
            "warnings": sorted({str(warning.message) for warning in caught if warning.category is UserWarning}),
            "seconds": time.perf_counter() - start,
        }

    def summary(results: Sequence[Result]) -> tuple[AttackRecord, CheckRecord | None]:
        accuracy, number = share(results)
        seconds = sum(result["seconds"] for result in results)
        record = AttackRecord(
            name=name, label=attack.label, **description, n=number, seed=subject.seed, accuracy=accuracy,
            seconds=seconds,
        )  # fmt: skip
        return record, complaint(name, attack, results)

    pieces = []
    for first, rows in chunks(subject.order[:count], chunk):
        seed = piece_seed(subject.seed, name, first)
        what = {"kind": "attack", "attack": name, "settings": settings, "version": description["version"]}
        what |= {"rows": f"permutation {subject.seed}", "first": first, "n": len(rows), "seed": seed}
        pieces.append(Piece(attack.label, what, len(rows) * cost(description), partial(attacked, rows, seed)))
    return Part(pieces, summary)


def cost(description: dict[str, Any]) -> float:
    """Of attacking one image, in forward passes; a guess for the progress bar."""
    steps, restarts = description["steps"] or UNSAID_STEPS, description["restarts"] or 1
    return PASSES * steps * restarts * max(1, len(description["losses"]))


def complaint(name: str, attack: Any, results: Sequence[Result]) -> CheckRecord | None:
    """What an attack of another package found wrong with the network or itself; None where it said nothing."""
    found = sorted({message for result in results for message in result["warnings"]})
    if not found:
        return None
    message = "; ".join(" ".join(line.split()) for line in found)
    return CheckRecord(name=f"warnings of {name}", passed=False, message=f"{attack.label}: {message}", numbers={})


def chunks(rows: torch.Tensor, size: int) -> list[tuple[int, torch.Tensor]]:
    """(place of the first, rows) of consecutive parts of `size`."""
    return [(first, rows[first : first + size]) for first in range(0, len(rows), size)]
