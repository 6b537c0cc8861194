"""`relinearize evaluate run=FOLDER`: a finished run's network, built again from its files, and tested again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from relinearize.evaluation.options import EvaluationOptions, parse_options
from relinearize.evaluation.robustness import evaluate_robustness
from relinearize.evaluation.several_runs import evaluate_each, run_folders
from relinearize.files import write_json
from relinearize.methods.losses import accuracy
from relinearize.relu.counting import relu_total
from relinearize.runs.finished import FinishedRun
from relinearize.runs.images import open_images, open_source
from relinearize.training.settings import resolve_accelerator

EVALUATION = "evaluation.json"


def evaluate_run(arguments: list[str], console: Console | None = None) -> Any:
    """Do what `arguments` ask (see evaluation_options): the clean evaluation's numbers, or all robust records.

    With several runs a list of these.
    """
    options = parse_options(arguments)
    shown = console or Console()
    evaluate = evaluate_clean if options.robust is None else evaluate_robustness

    def one(folder: Path) -> Any:
        return evaluate(replace(options, folder=folder), shown)

    folders = run_folders(str(options.folder))
    return one(folders[0]) if len(folders) == 1 else evaluate_each(folders, one)


def evaluate_clean(options: EvaluationOptions, console: Console) -> dict[str, float]:
    """The test accuracy, once more.

    Checks that the mask fits the network and keeps as many ReLUs as the record says, prints the record's accuracy
    beside the new one and writes evaluation.json into the run's folder. Returns that file's content.
    """
    run = FinishedRun.open(options.folder, options.root)
    record = run.record
    accelerator = resolve_accelerator(options.accelerator)
    network = run.network().to(accelerator)
    data = open_images(run.config, open_source(run.config), accelerator, holdout=0.0)
    batches = data.test_loader(options.batch_size)
    found = accuracy(network, track(batches, description="test", console=Console(stderr=True), transient=True))
    result = {
        "test": found,
        "n_test": data.sizes["test"],
        "relu/count": relu_total(network.network),
        "record/test": record.accuracy.test,
        "record/relu/count": record.budget.met,
    }
    write_json(run.folder / EVALUATION, result)
    table = Table(title=f"{record.name} on {record.dataset.title}", title_justify="left")
    for column in ("", "record", "now"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("ReLUs", f"{record.budget.met:,}", f"{result['relu/count']:,}")
    table.add_row(f"test accuracy, % (n = {data.sizes['test']:,})", f"{record.accuracy.test:.2f}", f"{found:.2f}")
    console.print(table)
    return result
