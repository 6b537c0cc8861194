"""Robust evaluations of quick runs, for all tests of them. Attacks of two steps, on 16 images."""

from rich.console import Console

from relinearize.commands.evaluate import main as evaluate_run
from relinearize.evaluation.pieces import PIECES_FILE
from relinearize.files import read_json

ATTACKS = [
    "evaluation.attacks=[fgsm,pgd20,pgd100x5]", "attack.pgd20.steps=2",
    "attack.pgd100x5.steps=2", "attack.pgd100x5.restarts=2",
]  # fmt: skip
ALONE = ["evaluation.corruptions=none", "evaluation.checks=false"]
FGSM = ["evaluation.attacks=[fgsm]", *ALONE]
SETTINGS = ["evaluation=robust", "accelerator=cpu", "evaluation.n_attack=16", "evaluation.chunk=6"]


def evaluate(folder, *arguments):
    return evaluate_run([f"run={folder}", *SETTINGS, *arguments], Console(quiet=True))


def lasting(record):
    """The parts of a robust record that must not depend on when and in how many attempts it was made."""
    values = record.model_dump()
    for attack in values["attacks"]:
        del attack["seconds"]
    return {key: value for key, value in values.items() if key not in ("created", "seconds")}


def pieces(folder):
    """What was filed: plain data that names a piece -> its result."""
    filed = read_json(folder / PIECES_FILE)["pieces"].values()
    return [(piece["what"], piece["result"]) for piece in filed]
