"""Made-up robust records for tests of the report. Invented numbers: never results."""

import random
from collections.abc import Sequence
from pathlib import Path

from fake_records import fake_record

from relinearize.records.robustness import RobustRecord
from relinearize.records.run import Record, SubmodelRecord

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
EXTRA = ("speckle_noise", "gaussian_blur", "saturate", "spatter")
ATTACKS = {  # name -> label, step, steps, restarts, losses, version, n
    "fgsm": ("FGSM", 8.0, 1, 1, ["ce"], None, 10_000),
    "pgd20": ("PGD-20 (CE)", 2.0, 20, 1, ["ce"], None, 10_000),
    "pgd100x5": ("PGD-100 x 5 (CE and margin)", 2.0, 100, 5, ["ce", "margin"], None, 1_000),
    "autoattack": ("AutoAttack", None, None, None, [], "pyautoattack 0.2.0, standard", 1_000),
}
# (clean, noise, PGD-20) without adversarial training, and on each route with it.
LEVELS = {
    None: (90.0, 62.0, 0.4),
    "clean": (86.0, 78.0, 9.0),
    "augmix": (85.0, 79.5, 14.0),
    "adversarial": (74.0, 66.0, 43.0),
}


def fake_robust(
    record: Record,
    *,
    attacks: Sequence[str] = tuple(ATTACKS),
    epsilon: float = 8.0,
    n: int | None = None,
    corruptions: bool = True,
    source: str = "generated",
    constants: str = "cifar",
    left_out: Sequence[str] = ("frost",),
    extra: bool = True,
    checks: bool = True,
    anchor: str = "mean error",
    attack_seed: int = 0,
    corruption_seed: int = 0,
) -> RobustRecord:
    """The robust record beside `record`, on its route."""
    route = record.route
    draw = random.Random(repr((record.key, route)))
    clean, noisy, attacked = (level + draw.uniform(-0.7, 0.7) for level in LEVELS[route])
    lost = (100 - 100 * record.budget.met / record.budget.total) ** 2 / 1_200
    clean, noisy = clean - lost, noisy - lost
    attacked = max(0.0, attacked - 0.6 * lost)

    def severities(name: str) -> list[float]:
        steepness = random.Random(name).uniform(0.2, 1.8) * (clean - noisy) / 3
        return [round(max(0.0, clean - steepness * severity - draw.uniform(0, 1)), 2) for severity in range(1, 6)]

    accuracy = {name: severities(name) for name in CORRUPTIONS if name not in left_out}
    npa = sum(sum(values) for values in accuracy.values()) / (5 * len(accuracy))
    drops = {"fgsm": 1.25, "pgd20": 1.0, "pgd100x5": 0.93, "autoattack": 0.86}
    values = {
        "schema_version": 1,
        "key": record.key,
        "name": record.name,
        "method": record.method.name,
        "route": route,
        "run": record.submodel.run if record.submodel else record.key,
        "dataset": record.dataset.name,
        "title": record.dataset.title,
        "backbone": record.backbone.name,
        "width": record.backbone.width,
        "convention": record.backbone.convention,
        "relus": record.budget.met,
        "total": record.budget.total,
        "seed": record.seed,
        "clean": {"accuracy": round(clean, 2), "n": n or 10_000},
        "attacks": [_attack(name, epsilon, n, attack_seed, round(attacked * drops[name], 1)) for name in attacks],
        "corruptions": {
            "source": source,
            "constants": constants,
            "seed": corruption_seed,
            "n": n or 10_000,
            "left_out": list(left_out),
            "accuracy": accuracy,
            "extra": {name: severities(name) for name in EXTRA} if extra else {},
            "npa": npa,
            "mce": 100 - npa,
            "mce_anchor": anchor,
        }
        if corruptions
        else None,
        "checks": _checks(attacked) if checks else [],
        "evaluation": {"name": "robust"},
        "created": "2025-04-01T10:00:00+00:00",
        "seconds": 321.0,
        "versions": {"torch": "2.11.0", "relinearize": "0.1.0"},
        "hardware": {"accelerator": "cpu", "name": "a made-up machine"},
        "git_commit": None,
    }
    return RobustRecord.model_validate(values)


def _attack(name: str, epsilon: float, n: int | None, seed: int, accuracy: float) -> dict:
    label, step, steps, restarts, losses, version, usual = ATTACKS[name]
    settings = {"epsilon": epsilon, "step": step, "steps": steps, "restarts": restarts}
    settings |= {"losses": losses, "version": version, "n": n or usual, "seed": seed}
    return {"name": name, "label": label, **settings, "accuracy": accuracy, "seconds": 33.0}


def _checks(attacked: float) -> list[dict]:
    sweep = {str(2**power): round(attacked * share, 1) for power, share in enumerate((1.9, 1.7, 1.4, 1, 0.4, 0.05, 0))}
    masked = attacked < 1
    return [
        {"name": "epsilon sweep", "passed": True, "message": "falls to 0.0 % at 64/255", "numbers": sweep},
        {
            "name": "steps",
            "passed": True,
            "message": "accuracy does not rise with more steps",
            "numbers": {"1": round(1.25 * attacked, 1), "10": round(1.02 * attacked, 1), "50": round(attacked, 1)},
        },
        {
            "name": "black box",
            "passed": True,
            "message": "Square leaves no less than PGD-20",
            "numbers": {"square": round(1.1 * attacked, 1), "pgd20": round(attacked, 1)},
        },
        {
            "name": "other loss",
            "passed": attacked < 20,
            "message": "margin-PGD against CE-PGD, in points",
            "numbers": {"margin": round(0.93 * attacked, 1), "ce": round(attacked, 1)},
        },
        {
            "name": "zero gradients",
            "passed": not masked,
            "message": "share of images whose input gradient is zero, in percent",
            "numbers": {"share": 3.1 if masked else 0.0},
        },
        {"name": "threat model", "passed": True, "message": "within 8/255 and [0, 1]", "numbers": {"largest": 8.0}},
    ]


def routed(record: Record, routes: Sequence[str]) -> list[Record]:
    """The records of one checkpoint's routes: the first in the run's folder, the others in folders below it."""
    records = [record.model_copy(update={"route": routes[0]})]
    for route in routes[1:]:
        changed = {"key": f"{route}-{record.key}", "name": f"{record.name}-{route}", "route": route}
        changed["submodel"] = SubmodelRecord(fraction=1.0, run=record.key)
        records.append(record.model_copy(update=changed))
    return records


def fake_robust_runs(
    budgets: Sequence[int] = (34_816, 13_926),
    seeds: Sequence[int] = (0,),
    routes: Sequence[str] = ("clean", "adversarial"),
) -> list[Record]:
    """Ordinary runs of SNL and SENet, and every route of RLNet's."""
    records = []
    for asked in budgets:
        for seed in seeds:
            records += [fake_record("snl", asked, seed), fake_record("senet", asked, seed)]
            records += routed(fake_record("rlnet", asked, seed), routes)
    return records


def write_robust(records: Sequence[Record], folder: Path, **options: object) -> Path:
    """Run folders as `relinearize evaluate` leaves them: robustness.json beside each record.json."""
    for index, record in enumerate(records):
        place = folder / f"run-{index:03d}"
        record.write(place / "record.json")
        fake_robust(record, **options).write(place / "robustness.json")
    return folder
