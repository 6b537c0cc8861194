"""`relinearize cost run=FOLDER`: the counts of a finished run's network."""

from pathlib import Path

from relinearize.commands.export import route_run
from relinearize.private_inference.bundle.exporting import as_bundle
from relinearize.private_inference.cost.workload import Workload, bundle_workload


def run_workload(folder: Path, route: str | None) -> tuple[str, Workload]:
    """(name of the run and its route, counts). UserError where the folder is no finished run or has no such route."""
    run, _ = route_run(folder, route)
    dataset = run.record.dataset
    bundle = as_bundle(run.network(), (dataset.channels, dataset.image_size, dataset.image_size))
    return run.record.name, bundle_workload(bundle)
