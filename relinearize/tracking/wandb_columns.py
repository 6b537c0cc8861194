"""What W&B's table of runs and its curves show of a stage: from its rows, its artifact.json or the run's record."""

from collections.abc import Iterable
from typing import Any

from relinearize.records.run import Record


def best_columns(history: Iterable[dict[str, float]]) -> dict[str, float]:
    """The best value so far of each validation metric; its last one stands in the summary by itself."""
    best: dict[str, float] = {}
    for row in history:
        for key, value in row.items():
            if key.startswith("val/") and value is not None:
                best[f"{key}_best"] = max(value, best.get(f"{key}_best", value))
    return best


def history_columns(history: list[dict[str, float]]) -> dict[str, float]:
    """The summary of a training: the last row but for what it says of single sites, and the best values."""
    last = (epoch_rows(history) or [{}])[-1]
    return {key: value for key, value in last.items() if key.count("/") < 2} | best_columns(history)


def log_rows(run: Any, history: list[dict[str, float]]) -> None:
    """The curves of a training that was not logged while it ran."""
    for row in epoch_rows(history):
        run.log(row)


def epoch_rows(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The rows that a live training logs: without that of a snapshot, which lies between two epochs."""
    return [row for row in history if "seconds" in row]


def summary_columns(record: Record) -> dict[str, Any]:
    """What W&B's table of runs shows of a finished run."""
    accuracy = record.accuracy
    return {
        "relu/count": record.budget.met,
        "relu/asked": record.budget.asked,
        "relu/total": record.budget.total,
        "test/accuracy": accuracy.test,
        "test/accuracy_last": accuracy.test_last,
        "test/accuracy_teacher": accuracy.teacher_test,
        "val/accuracy_selected": accuracy.holdout,
        "record/key": record.key,
    }


def stage_columns(description: dict[str, Any]) -> dict[str, Any]:
    """The summary of a finished stage, from its artifact.json."""
    accuracy = description.get("accuracy", {})
    columns = {
        "relu/count": description.get("met"),
        "relu/asked": description.get("asked"),
        "test/accuracy": accuracy.get("test"),
        "test/accuracy_last": accuracy.get("test_last"),
        "val/accuracy_selected": accuracy.get("holdout"),
    }
    return history_columns(description["history"]) | {key: value for key, value in columns.items() if value is not None}
