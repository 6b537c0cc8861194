"""`relinearize evaluate run=FOLDER`: the test accuracy of a finished run's network, built again from its files."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from relinearize.data.loaders import OrderedLoader
from relinearize.data.source import check_set
from relinearize.errors import user_error_behind
from relinearize.evaluation.settings import Evaluation
from relinearize.files import write_json
from relinearize.methods.losses import measure_predictions
from relinearize.records.run import PredictionsRecord
from relinearize.relu.mask import relu_total
from relinearize.runs.finished import FinishedRun
from relinearize.terminal import right_column
from relinearize.training.settings import resolve_accelerator

EVALUATION = "evaluation.json"


def evaluate_clean(evaluation: Evaluation, console: Console) -> dict[str, Any]:
    """Check that the mask fits the network and keeps as many ReLUs as the record says, and test the network.

    Prints the record's accuracy beside the new one and writes evaluation.json into the run's folder, if that can be
    written. Returns that file's content.
    """
    run = FinishedRun.open(evaluation.folder, evaluation.root, evaluation.trust)
    record, source = run.record, run.source()
    accelerator = resolve_accelerator(evaluation.accelerator, "accelerator")
    network = run.network().to(accelerator)
    test = check_set(source.load("test"), source, "test")
    workers = run.config.dataset.get("workers", 2)
    batches = OrderedLoader(test.images, test.labels, evaluation.batch_size, accelerator, workers=workers)
    shown = track(batches, description="test", console=Console(stderr=True), transient=True)
    found, predictions = measure_predictions(network, shown)
    result = {
        "test": found,
        **predictions,
        "n_test": len(test),
        "relu/count": relu_total(network.network),
        "record/test": record.accuracy.test,
        "record/relu/count": record.budget.met,
    }
    title = escape(f"{record.name} on {record.dataset.title}")
    table = Table("", right_column("record"), right_column("now"), title=title, title_justify="left")
    table.add_row("ReLUs", f"{record.budget.met:,}", f"{result['relu/count']:,}")
    table.add_row(f"test accuracy, % (n = {len(test):,})", f"{record.accuracy.test:.2f}", f"{found:.2f}")
    before = record.accuracy.predictions
    for title, name in (("worst class, %", "worst_class"), ("calibration error (ECE), %", "ece"), ("NLL", "nll")):
        values = [getattr(found, name, None) for found in (before, PredictionsRecord(**predictions))]
        table.add_row(title, *("-" if value is None else f"{value:.2f}" for value in values))
    console.print(table)
    with shown_anyway():
        write_json(run.folder / EVALUATION, result)
    return result


@contextlib.contextmanager
def shown_anyway() -> Iterator[None]:
    """Around the storing of results that were printed: a run may be a colleague's, a disk read-only or full."""
    try:
        yield
    except OSError as error:
        print(f"relinearize: these results could not be stored: {user_error_behind(error) or error}", file=sys.stderr)
