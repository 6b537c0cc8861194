"""Clean and attacked accuracy of a subject, in pieces: one chunk of images each."""

import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from relinearize.evaluation.pieces import Part, Piece, Result, flags_to_text, share, total_seconds
from relinearize.evaluation.subject import Subject
from relinearize.records.robustness import AttackRecord, CheckRecord, CleanAccuracy
from relinearize.robustness.attacks import attacked_batch

PASSES = 3  # of a step: forward and backward, in forward passes
ASSUMED_STEPS = 400  # AutoAttack takes about 20 times as long as PGD-20
# Images attacked at once. Attacks go on with the few that are still right: with smaller chunks an AutoAttack that
# leaves 5 % took 110 s for 25 images on a CPU, nearly all of it for one of them.
CHUNK = {"cpu": 125, "cuda": 1000}


def clean_part(subject: Subject, count: int | None, batch_size: int) -> Part:
    """The accuracy on the first `count` images (None: all), in the batches of the run's own test: a CleanAccuracy."""

    def right(rows: torch.Tensor) -> Result:
        return {"right": flags_to_text(subject.correct(*subject.batch(rows)))}

    def summary(results: Sequence[Result]) -> CleanAccuracy:
        accuracy, number = share(results)
        return CleanAccuracy(accuracy=accuracy, n=number)

    pieces = []
    for number, rows in enumerate(subject.rows(count).split(batch_size)):
        what = {"kind": "clean", "rows": subject.which(count), "first": number * batch_size, "n": len(rows)}
        pieces.append(Piece("clean", what, len(rows), partial(right, rows)))
    return Part(pieces, summary)


def attack_part(
    subject: Subject, name: str, attack: Any, settings: dict[str, Any], count: int | None, chunk: int
) -> Part:
    """The accuracy on the first `count` images (None: all) under `attack`, which was made of `settings`.

    Its outcome: an AttackRecord and, where the attack complained, a CheckRecord. The seed of a chunk is a function of
    (evaluation.seed, `name`, place of its first image), so that pieces can be made in any order, by any process.
    """
    description = attack.describe()
    epsilon = None if description["epsilon"] is None else description["epsilon"] / 255
    steps, restarts = description["steps"] or ASSUMED_STEPS, description["restarts"] or 1
    cost = PASSES * steps * restarts * max(1, len(description["losses"]))  # a guess, for the progress bar

    def attacked(rows: torch.Tensor, seed: int) -> Result:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            robust = attacked_batch(subject.network, *subject.batch(rows), attack, seed, epsilon)
        complaints = sorted({str(warning.message) for warning in caught if warning.category is UserWarning})
        return {"right": flags_to_text(robust), "warnings": complaints}

    def summary(results: Sequence[Result]) -> tuple[AttackRecord, CheckRecord | None]:
        accuracy, number = share(results)
        about = {"name": name, "label": attack.label, **description, "n": number, "seed": subject.seed}
        record = AttackRecord(**about, accuracy=accuracy, seconds=total_seconds(results))
        # What an attack of another package found wrong with the network or itself.
        complaints = sorted({" ".join(line.split()) for result in results for line in result["warnings"]})
        if not complaints:
            return record, None
        message = f"{attack.label}: {'; '.join(complaints)}"
        return record, CheckRecord(name=f"warnings of {name}", passed=False, message=message, numbers={})

    pieces = []
    for number, rows in enumerate(subject.order[:count].split(chunk)):
        first = number * chunk
        digest = hashlib.sha256(f"{subject.seed}/{name}/{first}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big") >> 1
        what = {"kind": "attack", "attack": name, "settings": settings, "version": description["version"]}
        what |= {"rows": f"permutation {subject.seed}", "first": first, "n": len(rows), "seed": seed}
        pieces.append(Piece(attack.label, what, len(rows) * cost, partial(attacked, rows, seed)))
    return Part(pieces, summary)
