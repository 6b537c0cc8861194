"""Clean and attacked accuracy of a subject, in pieces: one chunk of images each."""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from relinearize.evaluation.pieces import flags_to_text
from relinearize.evaluation.subject import Piece, Subject, piece_seed
from relinearize.records.robustness import AttackRecord, CheckRecord, CleanAccuracy
from relinearize.robustness.robust_accuracy import attacked_batch

PASSES = 3  # of a step: forward and backward, in forward passes
UNSAID_STEPS = 400  # AutoAttack takes about 20 times as long as PGD-20
# Images attacked at once. Attacks go on with the few that are still right: with smaller chunks an AutoAttack that
# leaves 5 % took 110 s for 25 images on a CPU, nearly all of it for one of them.
CHUNK = {"cpu": 125, "cuda": 1000}


def clean_pieces(subject: Subject, count: int | None, batch_size: int) -> list[Piece]:
    """Which of the first `count` images are right as they are; all of them in the batches of the run's own test."""
    pieces = []
    for first, rows in chunks(subject.rows(count), batch_size):
        what = {"kind": "clean", "rows": subject.which(count), "first": first, "n": len(rows)}

        def compute(rows: torch.Tensor = rows) -> dict[str, Any]:
            start = time.perf_counter()
            flags = subject.right(*subject.batch(rows))
            return {"right": flags_to_text(flags), "seconds": time.perf_counter() - start}

        pieces.append(Piece("clean", what, len(rows), compute))
    return pieces


def attack_pieces(
    subject: Subject, name: str, attack: Any, settings: dict[str, Any], count: int | None, chunk: int
) -> list[Piece]:
    """Which of the first `count` images (None: all) are right before and after `attack`, which was made of `settings`.

    The seed of a chunk is a function of (evaluation.seed, `name`, place of its first image).
    """
    description = attack.describe()
    pieces = []
    for first, rows in chunks(subject.order[:count], chunk):
        seed = piece_seed(subject.seed, name, first)
        what = {"kind": "attack", "attack": name, "settings": settings, "version": description["version"]}
        what |= {"rows": f"permutation {subject.seed}", "first": first, "n": len(rows), "seed": seed}

        def compute(rows: torch.Tensor = rows, seed: int = seed) -> dict[str, Any]:
            start = time.perf_counter()
            epsilon = None if description["epsilon"] is None else description["epsilon"] / 255
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = attacked_batch(subject.network, *subject.batch(rows), attack, seed, epsilon)
            return {
                "right": flags_to_text(result.robust),
                "warnings": sorted({str(warning.message) for warning in caught if warning.category is UserWarning}),
                "seconds": time.perf_counter() - start,
            }

        pieces.append(Piece(attack.label, what, len(rows) * cost(description), compute))
    return pieces


def cost(description: dict[str, Any]) -> float:
    """Of attacking one image, in forward passes; a guess for the progress bar."""
    steps, restarts = description["steps"] or UNSAID_STEPS, description["restarts"] or 1
    return PASSES * steps * restarts * max(1, len(description["losses"]))


def clean_accuracy(results: Sequence[dict[str, Any]]) -> CleanAccuracy:
    """Of the results of `clean_pieces`."""
    accuracy, count = share(results)
    return CleanAccuracy(accuracy=accuracy, n=count)


def attack_record(name: str, attack: Any, seed: int, results: Sequence[dict[str, Any]]) -> AttackRecord:
    """Of the results of `attack_pieces`."""
    accuracy, count = share(results)
    seconds = sum(result["seconds"] for result in results)
    return AttackRecord(
        name=name, label=attack.label, **attack.describe(), n=count, seed=seed, accuracy=accuracy, seconds=seconds
    )


def attack_warnings(name: str, attack: Any, results: Sequence[dict[str, Any]]) -> CheckRecord | None:
    """What an attack of another package found wrong with the network or itself; None where it said nothing."""
    found = sorted({message for result in results for message in result["warnings"]})
    if not found:
        return None
    message = "; ".join(" ".join(line.split()) for line in found)
    return CheckRecord(name=f"warnings of {name}", passed=False, message=f"{attack.label}: {message}", numbers={})


def share(results: Sequence[dict[str, Any]]) -> tuple[float, int]:
    """(percent right, of how many)."""
    flags = "".join(result["right"] for result in results)
    return 100.0 * flags.count("1") / len(flags), len(flags)


def chunks(rows: torch.Tensor, size: int) -> list[tuple[int, torch.Tensor]]:
    """(place of the first, rows) of consecutive parts of `size`."""
    return [(first, rows[first : first + size]) for first in range(0, len(rows), size)]
