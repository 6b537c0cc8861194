"""`relinearize evaluate run=FOLDER evaluation=robust`: clean, corrupted and attacked accuracy of a finished run.

One row of the result is one checkpoint and one set of batch norms: a run's sub-folders (its routes and widths) are
evaluated one by one, each into a robustness.json of its own. The work is a list of pieces, each filed as soon as it is
done; what was filed before is taken from there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from filelock import FileLock
from rich.console import Console

from relinearize.data.source import ImageSet
from relinearize.errors import UserError
from relinearize.evaluation.corrupted import open_corruptions
from relinearize.evaluation.row import RowEvaluation, checkpoint_of, request_of
from relinearize.evaluation.settings import Evaluation
from relinearize.evaluation.subject import Subject
from relinearize.evaluation.table import show_robustness
from relinearize.progress import WorkProgress
from relinearize.records.robustness import ROBUST_FILE, RobustRecord
from relinearize.records.run import RECORD_FILE
from relinearize.runs.build import open_source
from relinearize.runs.finished import FinishedRun
from relinearize.targets import build
from relinearize.training.settings import resolve_accelerator


def evaluate_robustness(evaluation: Evaluation, console: Console) -> list[RobustRecord]:
    """Evaluate the run and its sub-folders, or find it done; print the table. Returns the records, the run's first."""
    run = FinishedRun.open(evaluation.folder, evaluation.root)
    runs = [run, *(FinishedRun.open(folder, evaluation.root) for folder in run.parts())]
    attacks = {name: build(settings) for name, settings in evaluation.attacks.items()}
    check_classes(run, attacks)
    records = [finished(one, evaluation) for one in runs]
    missing = [one for one, record in zip(runs, records, strict=True) if record is None]
    if missing:
        with exact_arithmetic():
            made = iter(evaluated(missing, [*runs, *siblings(run, evaluation)], evaluation, attacks))
        records = [record or next(made) for record in records]
    show_robustness(records, console)
    return records


def siblings(run: FinishedRun, evaluation: Evaluation) -> list[FinishedRun]:
    """The other routes of the checkpoint if `run` is the sub-folder of one route: attacks are made on them, too."""
    folder = run.folder.resolve()
    if not folder.name.startswith("route-") or not (folder.parent / RECORD_FILE).is_file():
        return []
    main = FinishedRun.open(folder.parent, evaluation.root)
    others = [FinishedRun.open(place, evaluation.root) for place in main.parts() if place != folder]
    return [main, *others]


def check_classes(run: FinishedRun, attacks: Mapping[str, Any]) -> None:
    """UserError for attacks whose loss compares more logits than the dataset has classes."""
    dataset = run.record.dataset
    for name, attack in attacks.items():
        least = getattr(attack, "least_classes", 2)
        if dataset.classes < least:
            others = ",".join(other for other in attacks if other != name)
            raise UserError(
                f"evaluation.attacks: {name} needs at least {least} classes, {dataset.title} has {dataset.classes}; "
                f"evaluation.attacks=[{others}] does the others"
            )


def finished(run: FinishedRun, evaluation: Evaluation) -> RobustRecord | None:
    """The robust record in the run's folder if it is what `evaluation` asks for, of these weights and this program."""
    try:
        record = RobustRecord.read(run.folder / ROBUST_FILE)
    except UserError:  # none there, or of another version: made anew
        return None
    device = record.hardware.accelerator
    here = evaluation.accelerator == "auto" or resolve_accelerator(evaluation.accelerator) == device
    request = request_of(run, evaluation)
    same = record.key == run.record.key and {name: record.evaluation.get(name) for name in request} == request
    return record if same and here else None


def evaluated(
    wanted: Sequence[FinishedRun],
    runs: Sequence[FinishedRun],
    evaluation: Evaluation,
    attacks: Mapping[str, Any],
) -> list[RobustRecord]:
    """One record for each of `wanted`, written into its folder; `runs`: these and other routes of their checkpoints.

    All are of one dataset.
    """
    device = resolve_accelerator(evaluation.accelerator)
    images = test_images(runs[0])
    source = None if evaluation.corruptions is None else open_corruptions(evaluation.corruptions, images)
    subjects = [Subject(run, images, device, evaluation.robust.seed) for run in runs]
    rows = [
        RowEvaluation(subject, evaluation, attacks, source, others_of(subject, subjects))
        for subject in subjects
        if subject.run.folder in {run.folder for run in wanted}
    ]
    records = []
    with WorkProgress(sum(row.units for row in rows)) as progress:
        for row in rows:
            with FileLock(row.folder / f".{ROBUST_FILE}.lock"):
                records.append(row.record(progress))
                records[-1].write(row.folder / ROBUST_FILE)
    return records


def test_images(run: FinishedRun) -> ImageSet:
    """The test set the run was tested on. UserError if the images now there are others."""
    source = open_source(run.config)
    if source.fingerprint() != run.record.dataset.fingerprint:
        raise UserError(
            f"the images at dataset.root={run.config.dataset.get('root')} are not those of {run.record.name} "
            f"({run.record.dataset.title}); give root=FOLDER, where these lie"
        )
    return source.load("test")


def others_of(subject: Subject, subjects: Sequence[Subject]) -> list[Subject]:
    """The other routes of the same checkpoint."""
    key = checkpoint_of(subject.run)
    return [other for other in subjects if other is not subject and checkpoint_of(other.run) == key]


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """float32 in full: CUDA's convolutions and products would round their factors to TF32's 10 bits."""
    flags = [(torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32")]
    former = [getattr(place, name) for place, name in flags]
    try:
        for place, name in flags:
            setattr(place, name, False)
        yield
    finally:
        for (place, name), value in zip(flags, former, strict=True):
            setattr(place, name, value)
