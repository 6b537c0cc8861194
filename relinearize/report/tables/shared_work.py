"""What runs saved by sharing stages: the training that was done, against what each run alone would have needed."""

from collections.abc import Iterable

from pandas import DataFrame

from relinearize.records.run import Record
from relinearize.terminal import duration


def shared_work(records: Iterable[Record]) -> str:
    """One line about the seconds of training, evaluation left out; "" where sharing saved nothing.

    Networks beside the main one of a run (widths, routes) cost nothing of their own.
    """
    runs = [record for record in records if record.submodel is None]
    stages = DataFrame(
        [(stage.key, stage.seconds) for record in runs for stage in record.stages.values()],
        columns=["key", "seconds"],
    )
    # A search that serves several budgets took as long as it takes to reach the smallest.
    done, alone = stages.groupby("key")["seconds"].max().sum(), stages["seconds"].sum()
    if done == alone:
        return ""
    return (
        f"{len(runs)} runs: {duration(done)} of training; each on its own: {duration(alone)} "
        f"({100 * (1 - done / alone):.0f} % saved by sharing stages)"
    )
