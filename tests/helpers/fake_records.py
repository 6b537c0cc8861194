"""Made-up records for tests of the report. Invented numbers: never results."""

import hashlib
import math
import random
from collections.abc import Sequence
from pathlib import Path

from relinearize.records.run import Record

# What a report writes of them, sorted.
REPORT_FILES = [
    "latency_split.png",
    "pareto.csv",
    "pareto.png",
    "pareto_bytes.png",
    "pareto_latency.png",
    "report.html",
]
BUDGETS = (70_000, 35_000, 14_000, 7_000, 3_500)


def resnet18_sites(width: int = 16, image_size: int = 32, stem: bool = True) -> list[tuple[str, list[int]]]:
    sites = [("relu1", [width, image_size, image_size])] if stem else []
    for stage in range(4):
        channels, size = width * 2**stage, image_size // 2**stage
        for block in range(2):
            sites += [(f"layer{stage + 1}.{block}.relu{n}", [channels, size, size]) for n in (1, 2)]
    return sites


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _kept(totals: Sequence[int], budget: int, method: str, draw: random.Random) -> list[int]:
    """Split a budget over the sites: evenly for random masks, favouring later sites for the others."""
    favour = [1.0 if method == "random" else 0.2 + (index / len(totals)) ** 1.5 for index in range(len(totals))]
    weights = [total * share * draw.uniform(0.9, 1.1) for total, share in zip(totals, favour, strict=True)]
    kept = [min(total, int(budget * weight / sum(weights))) for total, weight in zip(totals, weights, strict=True)]
    for index in reversed(range(len(totals))):
        kept[index] += min(totals[index] - kept[index], budget - sum(kept))
    return kept


def _history(epochs: int, start: float, end: float, draw: random.Random, search: tuple[int, int] | None) -> list[dict]:
    rows = []
    for epoch in range(epochs):
        done = (epoch + 1) / epochs
        accuracy = start + (end - start) * (1 - math.exp(-4 * done)) + draw.uniform(-0.6, 0.6)
        row = {
            "epoch": epoch,
            "train/loss": 0.15 + 2.1 * (1 - accuracy / 100) + draw.uniform(0, 0.05),
            "train/accuracy": min(100.0, accuracy + 2.5 * done),
            "val/loss": 0.25 + 2.4 * (1 - accuracy / 100) + draw.uniform(0, 0.05),
            "val/accuracy": accuracy,
            "lr": 0.1 * (1 + math.cos(math.pi * done)) / 2,
        }
        if search:
            total, budget = search
            row["lr"] = 1e-3
            row["relu/count"] = total if epoch < 2 else int(budget + (total - budget) * (1 - done) ** 2.2)
            row["lasso"] = 1e-5 * 1.1 ** max(0, epoch - epochs // 2)
        rows.append(row)
    return rows


def fake_record(
    method: str = "snl",
    asked: int = 35_000,
    seed: int = 0,
    *,
    name: str | None = None,
    dataset: str = "cifar10",
    title: str = "CIFAR-10 (JPEG)",
    image_size: int = 32,
    width: int = 16,
    convention: str = "senet",
    ceiling: float = 92.6,
    holdout: bool = True,
    teacher: bool = True,
    finetune_lr: float = 0.001,
    epochs: tuple[int, int, int] = (30, 40, 20),
) -> Record:
    """One plausible record; everything is a function of the arguments."""
    draw = random.Random(repr((method, asked, seed, dataset, width, finetune_lr)))
    shapes = resnet18_sites(width, image_size, convention == "senet")
    totals = [math.prod(shape) for _, shape in shapes]
    total = sum(totals)
    asked = min(asked, total)
    loss = {"snl": 0.9, "random": 2.6}.get(method, 1.4)
    test = ceiling - loss * math.log2(total / asked + 1) ** 1.25 + 0.5 + draw.uniform(-0.35, 0.35)
    top = ceiling + 0.2 * seed
    search_class = {"random": "RandomMask", "snl": "SNLSearch"}.get(method, "Search")
    lengths = dict(zip(("teacher", "search", "finetune"), epochs, strict=True))
    if method == "random":
        lengths["search"] = 0
    histories = {
        "teacher": _history(lengths["teacher"], 35, top, random.Random(seed), None),
        "search": _history(lengths["search"], 80, test - 5, draw, (total, asked)),
        "finetune": _history(lengths["finetune"], test - 5, test + 0.3, draw, None),
    }
    stage_keys = {
        "teacher": _key("teacher", dataset, seed, width),
        "search": _key("search", method, dataset, seed, width, asked),
        "finetune": _key("finetune", method, dataset, seed, width, asked, finetune_lr),
    }
    values = {
        "schema_version": 3,
        "key": _key(method, asked, seed, dataset, width, convention, finetune_lr, holdout, name),
        "name": name if name is not None else f"{method}-resnet18-{dataset}-{asked / 1000:g}k-s{seed}",
        "created": f"2025-03-{1 + seed:02d}T10:{asked % 60:02d}:00+00:00",
        "method": {"name": method, "teacher": "Classifier", "search": search_class, "finetune": "Distill"},
        "dataset": {
            "name": dataset,
            "title": title,
            "image_size": image_size,
            "channels": 3,
            "classes": 10,
            "train": 45_000 if holdout else 50_000,
            "holdout": 5_000 if holdout else 0,
            "test": 10_000,
            "fingerprint": _key("data", dataset),
        },
        "backbone": {"name": "resnet18", "width": width, "convention": convention},
        "seed": seed,
        "replacement": "identity",
        "budget": {"asked": asked, "met": asked, "total": total, "reached": True},
        "sites": [
            {"name": site, "shape": shape, "total": whole, "kept": kept}
            for (site, shape), whole, kept in zip(shapes, totals, _kept(totals, asked, method, draw), strict=True)
        ],
        "accuracy": {
            "test": round(test, 2),
            "test_last": round(test - draw.uniform(-0.1, 0.3), 2),
            "holdout": round(test + draw.uniform(-0.3, 0.5), 2) if holdout else None,
            "teacher_test": round(top, 2) if teacher else None,
            "n_test": 10_000,
            "n_holdout": 5_000 if holdout else 0,
            "selection": "best" if holdout else "last",
            "selected_epoch": lengths["finetune"] - 2,
        },
        "stages": {
            stage: {
                "key": stage_keys[stage],
                "seconds": 4.2 * lengths[stage],
                "epochs": lengths[stage],
                "reused": stage == "teacher" and asked != BUDGETS[0],
                "history": histories[stage],
            }
            for stage in ("teacher", "search", "finetune")
        },
        "config": {
            "method": {
                "name": method,
                "teacher": {"lr": 0.1, "epochs": lengths["teacher"]},
                "search": {"lasso": 1e-5, "kappa": 1.1, "epsilon": 0.01} if method == "snl" else {},
                "finetune": {"lr": finetune_lr, "temperature": 4.0, "epochs": lengths["finetune"]},
            },
            "dataset": {"name": dataset, "holdout": 0.1 if holdout else 0, "root": None},
            "backbone": {"name": "resnet18", "width": width, "convention": convention},
            "budget": {"relus": asked},
            "seed": seed,
        },
        "versions": {"python": "3.11", "torch": "2.11.0", "relinearize": "0.1.0"},
        "git_commit": None,
        "hardware": {"accelerator": "cpu", "name": "a made-up machine", "threads": 2, "precision": "bf16-mixed"},
    }
    return Record.model_validate(values)


def fake_sweep(
    methods: Sequence[str] = ("snl", "random"),
    budgets: Sequence[int] = BUDGETS,
    seeds: Sequence[int] = (0, 1),
    **options: object,
) -> list[Record]:
    return [fake_record(method, asked, seed, **options) for method in methods for asked in budgets for seed in seeds]


def write_records(records: Sequence[Record], folder: Path) -> Path:
    """Each record into a folder of its own below `folder`."""
    for index, record in enumerate(records):
        record.write(folder / f"run-{index:03d}" / "record.json")
    return folder
