"""`relinearize evaluate run=FOLDER evaluation=robust`: clean, corrupted and attacked accuracy of a finished run.

One row of the result is one checkpoint and one set of batch norms: a run's sub-folders (its routes and widths) are
evaluated one by one, each into a robustness.json of its own. The work is a list of pieces, each filed as soon as it is
done; what was filed before is taken from there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import torch
from filelock import FileLock

from relinearize.corruptions.sources import CorruptedImages
from relinearize.data.decoding import EncodedImages
from relinearize.data.loaders import evaluation_batch
from relinearize.errors import UserError
from relinearize.evaluation.attacked import CHUNK, attack_part, clean_part
from relinearize.evaluation.checks import checks_part, clean_accuracy_check
from relinearize.evaluation.clean import shown_anyway
from relinearize.evaluation.corrupted import corrupted_part
from relinearize.evaluation.pieces import PIECES_FILE, Part, PiecesFile, total_seconds
from relinearize.evaluation.settings import Evaluation
from relinearize.evaluation.subject import Subject
from relinearize.files import SHARED
from relinearize.machine import device_name, git_commit, versions
from relinearize.progress import WorkProgress, say
from relinearize.records.robustness import ROBUST_FILE, ROBUST_SCHEMA_VERSION, RobustHardware, RobustRecord
from relinearize.records.run import RECORD_FILE
from relinearize.runs.finished import FinishedRun
from relinearize.targets import build
from relinearize.training.settings import resolve_accelerator

EVALUATION_VERSION = 1  # raise it when the same settings would give other results
PACKAGES = ("torchattacks", "pyautoattack", "opencv-python-headless", "scipy", "pillow")


def evaluate_robustness(evaluation: Evaluation, show: Callable[[list[RobustRecord]], None]) -> list[RobustRecord]:
    """Evaluate the run and its sub-folders, or find it done. Returns the records, the run's first.

    `show` prints them before anything is stored.
    """
    run = FinishedRun.open(evaluation.folder, evaluation.root, evaluation.trust)
    runs = [run, *run.parts()]
    evaluation, attacks = fitting_attacks(run, evaluation)
    records = [finished(one, evaluation) for one in runs]
    missing = [one for one, record in zip(runs, records, strict=True) if record is None]
    if missing:
        with exact_arithmetic():
            made = iter(evaluated(missing, [*runs, *siblings(run, evaluation)], evaluation, attacks))
        records = [record or next(made) for record in records]
    show(records)
    for one, record in zip(runs, records, strict=True):
        if one in missing:
            with shown_anyway():
                record.write(one.folder / ROBUST_FILE)
    return records


def siblings(run: FinishedRun, evaluation: Evaluation) -> list[FinishedRun]:
    """The other routes of the checkpoint if `run` is the sub-folder of one route: attacks are made on them, too."""
    folder = run.folder.resolve()
    if not folder.name.startswith("route-") or not (folder.parent / RECORD_FILE).is_file():
        return []
    main = FinishedRun.open(folder.parent, evaluation.root, evaluation.trust)
    return [main, *(part for part in main.parts() if part.folder != folder)]


def fitting_attacks(run: FinishedRun, evaluation: Evaluation) -> tuple[Evaluation, dict[str, Any]]:
    """`evaluation` without the attacks that take more channels than the run's images have; the others, built.

    A line names each that is left out. UserError where a loss compares more logits than there are classes.
    """
    dataset, attacks = run.record.dataset, {}
    for name, settings in evaluation.attacks.items():
        attack = build(settings)
        if getattr(attack, "least_channels", 1) <= dataset.channels:
            attacks[name] = attack
        else:
            say(f"evaluation.attacks: {name} is left out: it takes images of three channels, {dataset.title} has one")
    for name, attack in attacks.items():
        least = getattr(attack, "least_classes", 2)
        if dataset.classes < least:
            others = ",".join(other for other in attacks if other != name)
            raise UserError(
                f"evaluation.attacks: {name} needs at least {least} classes, {dataset.title} has {dataset.classes}; "
                f"evaluation.attacks=[{others}] does the others"
            )
    kept = {name: dict(evaluation.attacks[name]) for name in attacks}
    for name, settings in kept.items():
        if "step_size" in settings:  # records and the keys of pieces say what null has come to
            settings["step_size"] = getattr(attacks[name], "step_size", settings["step_size"])
    return replace(evaluation, attacks=kept, robust=replace(evaluation.robust, attacks=list(kept))), attacks


def finished(run: FinishedRun, evaluation: Evaluation) -> RobustRecord | None:
    """The robust record in the run's folder if it is what `evaluation` asks for, of these weights and this program."""
    try:
        record = RobustRecord.read(run.folder / ROBUST_FILE)
    except UserError:  # none there, or of another version: made anew
        return None
    corruptions = evaluation.corruptions or {}
    if corruptions.get("folder") or corruptions.get("frost_images"):
        return None  # what lies there may be other than it was: the pieces are found by its content
    device = record.hardware.accelerator
    here = evaluation.accelerator == "auto" or resolve_accelerator(evaluation.accelerator, "accelerator") == device
    request = request_of(run, evaluation)
    same = record.key == run.record.key and {name: record.evaluation.get(name) for name in request} == request
    return record if same and here else None


def request_of(run: FinishedRun, evaluation: Evaluation) -> dict[str, Any]:
    """What is evaluated and how, as the record says it."""
    return {
        **asdict(evaluation.robust),
        "attack": evaluation.attacks,
        "corruption": evaluation.corruptions,
        "batch_size": evaluation.batch_size,
        "version": EVALUATION_VERSION,
        "subject": run.identity,
    }


def evaluated(
    wanted: Sequence[FinishedRun],
    runs: Sequence[FinishedRun],
    evaluation: Evaluation,
    attacks: Mapping[str, Any],
) -> list[RobustRecord]:
    """One record for each of `wanted`; `runs`: these and other routes of their checkpoints.

    All are of one dataset.
    """
    device = resolve_accelerator(evaluation.accelerator, "accelerator")
    images, source = runs[0].source().load("test"), None
    if evaluation.corruptions is not None:  # UserError where it cannot be
        pixels = images.images if isinstance(images.images, EncodedImages) else images.images.numpy()
        source = build(evaluation.corruptions)(pixels, images.labels.numpy(), images.class_names)
    subjects = [Subject(run, images, device, evaluation.robust.seed) for run in runs]
    rows = [
        RowEvaluation(subject, evaluation, attacks, source, subjects)
        for subject in subjects
        if subject.run.folder in {run.folder for run in wanted}
    ]
    records = []
    with WorkProgress(sum(piece.units for row in rows for part in row.parts for piece in part.pieces)) as progress:
        for row in rows:
            with ExitStack() as alone:
                with suppress(OSError):  # where no lock can be made, nothing can be stored either
                    alone.enter_context(FileLock(row.subject.run.folder / f".{ROBUST_FILE}.lock", mode=SHARED))
                records.append(row.record(progress))
    return records


def checkpoint_of(run: FinishedRun) -> str:
    """The key that all routes of one checkpoint share: its main route's. A narrower network is a checkpoint itself."""
    submodel = run.record.submodel
    return submodel.run if submodel is not None and submodel.fraction == 1 else run.record.key


class RowEvaluation:
    """The parts of one row, in the order of the work, and the record made of them."""

    def __init__(
        self,
        subject: Subject,
        evaluation: Evaluation,
        attacks: Mapping[str, Any],
        source: CorruptedImages | None,
        subjects: Sequence[Subject],
    ) -> None:
        self.subject, self.evaluation = subject, evaluation
        settings, device = evaluation.robust, subject.device
        batch_size = evaluation.batch_size or evaluation_batch(device, subject.images.images)
        chunk = settings.chunk or evaluation_batch(device, subject.images.images, CHUNK)
        self.clean = clean_part(subject, settings.n_clean, batch_size)
        self.corrupted = [corrupted_part(subject, source, settings.n_corruptions, batch_size)] if source else []
        self.attacked: dict[str, Part] = {}
        for name, attack in attacks.items():
            count = settings.n_autoattack if name == "autoattack" else settings.n_attack
            self.attacked[name] = attack_part(subject, name, attack, evaluation.attacks[name], count, chunk)
        key = checkpoint_of(subject.run)  # the other routes of the same checkpoint
        others = [one for one in subjects if one is not subject and checkpoint_of(one.run) == key]
        self.checks = [checks_part(subject, others, settings, chunk)] if settings.checks else []
        self.parts = [self.clean, *self.corrupted, *self.attacked.values(), *self.checks]

    def record(self, progress: WorkProgress) -> RobustRecord:
        """Do what is not done yet; the robust record of all."""
        run, device = self.subject.run, self.subject.device
        record = run.record
        file = PiecesFile(run.folder / PIECES_FILE, {**self.subject.identity, "version": EVALUATION_VERSION})
        for part in self.parts:
            part.work(file, progress, record.route or run.folder.name)
        clean, attacked = self.clean.outcome, [part.outcome for part in self.attacked.values()]
        checks = [complaint for _, complaint in attacked]
        for part in self.checks:
            checks = [clean_accuracy_check(self.subject, clean), *part.outcome, *checks]
        chunks_used = {name: part.pieces[0].what["n"] for name, part in self.attacked.items()}
        return RobustRecord(
            schema_version=ROBUST_SCHEMA_VERSION,
            key=record.key,
            name=record.name,
            method=record.method.name,
            route=record.route,
            run=checkpoint_of(run),
            dataset=record.dataset.name,
            title=record.dataset.title,
            backbone=record.backbone.name,
            width=record.backbone.width,
            convention=record.backbone.convention,
            relus=record.budget.met,
            total=record.budget.total,
            seed=record.seed,
            clean=clean,
            attacks=[attack for attack, _ in attacked],
            corruptions=self.corrupted[0].outcome if self.corrupted else None,
            checks=[check for check in checks if check],
            evaluation={**request_of(run, self.evaluation), "chunk_used": chunks_used},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=total_seconds(result for part in self.parts for result in part.results),
            versions=versions(*PACKAGES),
            hardware=RobustHardware(accelerator=device, name=device_name(device)),
            git_commit=git_commit(),
        )


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
