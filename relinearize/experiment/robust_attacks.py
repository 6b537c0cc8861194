"""Clean and attacked accuracy of a subject, in pieces: one chunk of images each."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from relinearize.experiment.robust_pieces import flags_to_text
from relinearize.experiment.robust_records import AttackRecord, CleanAccuracy
from relinearize.experiment.robust_subject import Piece, Subject, piece_seed

SLACK = 1e-6  # of float32 pixels beside the radius
PASSES = 3  # forward and backward, in units of forward


def clean_pieces(subject: Subject, count: int | None, batch_size: int) -> list[Piece]:
    """Which of the first `count` images are right as they are; all of them in the batches of the run's own test."""
    pieces = []
    for first, rows in chunks(subject.rows(count), batch_size):
        what = {"kind": "clean", "rows": described(subject, count), "first": first, "n": len(rows)}

        def compute(rows: torch.Tensor = rows) -> dict[str, Any]:
            start = time.perf_counter()
            flags = subject.right(*subject.batch(rows))
            return {"right": flags_to_text(flags), "seconds": time.perf_counter() - start}

        pieces.append(Piece("clean", what, len(rows), compute))
    return pieces


def attack_pieces(subject: Subject, attack: Any, settings: dict[str, Any], count: int, chunk: int) -> list[Piece]:
    """Which of the first `count` images are right before and after `attack`, whose config is `settings`."""
    description = attack.describe()
    pieces = []
    for first, rows in chunks(subject.order[:count], chunk):
        what = {
            "kind": "attack",
            "attack": attack.name,
            "settings": settings,
            "version": description["version"],
            "seed": subject.seed,
            "first": first,
            "n": len(rows),
        }

        def compute(first: int = first, rows: torch.Tensor = rows) -> dict[str, Any]:
            start = time.perf_counter()
            seed = piece_seed(subject.seed, attack.name, first)
            flags, distance = attacked(subject, attack, rows, seed, description["epsilon"])
            return {"right": flags_to_text(flags), "distance": distance, "seconds": time.perf_counter() - start}

        pieces.append(Piece(attack.label, what, len(rows) * cost(description), compute))
    return pieces


def attacked(
    subject: Subject, attack: Any, rows: torch.Tensor, seed: int, epsilon: float | None
) -> tuple[torch.Tensor, float]:
    """(bool N: right before and after; the largest change of a pixel, times 255).

    Images that are wrong anyway are not attacked. `epsilon`: pixels times 255, None for attacks without a radius in the
    maximum norm. An attack that leaves the ball or [0, 1] is a bug, and no accuracy: RuntimeError.
    """
    pixels, labels = subject.batch(rows)
    right = subject.right(pixels, labels)
    if not bool(right.any()):
        return right, 0.0
    pixels, labels = pixels[right], labels[right]
    found = attack(subject.network, pixels, labels, seed)
    distance = (found - pixels).abs().max().item()
    inside = bool(((found >= 0) & (found <= 1)).all())
    if not inside or (epsilon is not None and distance > epsilon / 255 + SLACK):
        raise RuntimeError(
            f"attack {attack.name} left its threat model: change {255 * distance:.3f}/255, epsilon {epsilon}/255"
            f", {'inside' if inside else 'outside of'} [0, 1]"
        )
    right[right.clone()] = subject.right(found, labels)
    return right, 255 * distance


def cost(description: dict[str, Any]) -> float:
    """Of attacking one image, in forward passes; a guess for the progress bar."""
    steps, restarts = description.get("steps") or 1, description.get("restarts") or 1
    return PASSES * steps * restarts * max(1, len(description.get("losses") or ()))


def clean_accuracy(results: Sequence[dict[str, Any]]) -> CleanAccuracy:
    accuracy, count = share(results)
    return CleanAccuracy(accuracy=accuracy, n=count)


def attack_record(attack: Any, seed: int, results: Sequence[dict[str, Any]]) -> AttackRecord:
    accuracy, count = share(results)
    description = attack.describe()
    return AttackRecord(
        name=attack.name,
        label=attack.label,
        **{key: description[key] for key in ("epsilon", "step", "steps", "restarts", "losses", "version")},
        n=count,
        seed=seed,
        accuracy=accuracy,
        seconds=sum(result["seconds"] for result in results),
    )


def share(results: Sequence[dict[str, Any]]) -> tuple[float, int]:
    """(percent right, of how many)."""
    flags = "".join(result["right"] for result in results)
    return 100.0 * flags.count("1") / len(flags), len(flags)


def chunks(rows: torch.Tensor, size: int) -> list[tuple[int, torch.Tensor]]:
    """(place of the first, rows) of consecutive parts of `size`."""
    return [(first, rows[first : first + size]) for first in range(0, len(rows), size)]


def described(subject: Subject, count: int | None) -> str:
    """Which images `subject.rows(count)` are; the number is not in it, since more contain the fewer."""
    return "all in order" if count is None or count >= len(subject.images) else f"permutation {subject.seed}"
