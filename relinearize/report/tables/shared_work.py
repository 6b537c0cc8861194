"""What runs saved by sharing stages: the training that was done, against what each run alone would have needed."""

from collections.abc import Iterable
from dataclasses import dataclass

from relinearize.records.run import Record


@dataclass(frozen=True)
class SharedWork:
    """Seconds of training, evaluation left out. `done`: each stage once; `alone`: each run with all its stages."""

    runs: int
    done: float
    alone: float

    @property
    def saved(self) -> float:
        """The share of `alone` that sharing saved, 0 to 1."""
        return 1 - self.done / self.alone if self.alone else 0.0

    @classmethod
    def of(cls, records: Iterable[Record]) -> "SharedWork":
        """Networks beside the main one of a run (widths, routes) cost nothing of their own."""
        runs = [record for record in records if record.submodel is None]
        once: dict[tuple[str, str], float] = {}
        alone = 0.0
        for record in runs:
            for name, stage in record.stages.items():
                alone += stage.seconds
                # A search that serves several budgets took as long as it takes to reach the smallest.
                once[name, stage.key] = max(stage.seconds, once.get((name, stage.key), 0.0))
        return cls(len(runs), sum(once.values()), alone)

    def __str__(self) -> str:
        return (
            f"{self.runs} runs: {_hours(self.done)} of training; each on its own: {_hours(self.alone)} "
            f"({100 * self.saved:.0f} % saved by sharing stages)"
        )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
