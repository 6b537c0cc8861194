"""One row of a robust evaluation: a checkpoint with one set of batch norms, evaluated piece by piece."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from relinearize.corruptions.sources import CorruptedImages
from relinearize.data.loaders import EVALUATION_BATCH
from relinearize.evaluation.attacked import CHUNK, attack_part, clean_part
from relinearize.evaluation.checks import checks_part, clean_accuracy_check
from relinearize.evaluation.corrupted import CorruptedAccuracy
from relinearize.evaluation.pieces import PIECES_FILE, Part, Pieces
from relinearize.evaluation.settings import Evaluation
from relinearize.evaluation.subject import Subject
from relinearize.machine import device_name, git_commit, versions
from relinearize.progress import WorkProgress
from relinearize.records.robustness import ROBUST_SCHEMA_VERSION, RobustHardware, RobustRecord
from relinearize.runs.finished import FinishedRun

EVALUATION_VERSION = 1  # raise it when the same settings would give other results
PACKAGES = ("torchattacks", "pyautoattack", "opencv-python-headless", "scipy", "pillow")


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


def checkpoint_of(run: FinishedRun) -> str:
    """The key that all routes of one checkpoint share: its main route's. A narrower network is a checkpoint itself."""
    submodel = run.record.submodel
    return submodel.run if submodel is not None and submodel.fraction == 1 else run.record.key


class RowEvaluation:
    """The parts of one row, and the record made of them."""

    def __init__(
        self,
        subject: Subject,
        evaluation: Evaluation,
        attacks: dict[str, Any],
        source: CorruptedImages | None,
        others: Sequence[Subject],
    ) -> None:
        settings = evaluation.robust
        self.subject, self.evaluation = subject, evaluation
        self.folder = subject.run.folder
        batch_size = evaluation.batch_size or EVALUATION_BATCH[subject.device]
        self.clean = clean_part(subject, settings.n_clean, batch_size)
        self.attacked = {
            name: attack_part(
                subject,
                name,
                attack,
                evaluation.attacks[name],
                settings.n_autoattack if name == "autoattack" else settings.n_attack,
                settings.chunk or CHUNK[subject.device],
            )
            for name, attack in attacks.items()
        }
        self.corrupted = CorruptedAccuracy(subject, source, settings.n_corruptions, batch_size).part if source else None
        self.checks = checks_part(subject, others, settings) if settings.checks else Part([], lambda results: [])

    @property
    def parts(self) -> list[Part]:
        """In the order of the work."""
        return [self.clean, *([self.corrupted] if self.corrupted else []), *self.attacked.values(), self.checks]

    @property
    def units(self) -> float:
        return sum(piece.units for part in self.parts for piece in part.pieces)

    def record(self, progress: WorkProgress) -> RobustRecord:
        """Do what is not done yet; the robust record of all."""
        filed = Pieces(self.folder / PIECES_FILE, {**self.subject.identity, "version": EVALUATION_VERSION})
        for part in self.parts:
            part.work(filed, progress, self.subject.run.record.route or self.folder.name)
        return self.described()

    def described(self) -> RobustRecord:
        """The record of the finished work."""
        run, device = self.subject.run, self.subject.device
        record, clean = run.record, self.clean.outcome
        attacked = [part.outcome for part in self.attacked.values()]
        clean_check = clean_accuracy_check(self.subject, clean) if self.evaluation.robust.checks else None
        checks = [clean_check, *self.checks.outcome, *(complaint for _, complaint in attacked)]
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
            corruptions=self.corrupted.outcome if self.corrupted else None,
            checks=[check for check in checks if check],
            evaluation={**request_of(run, self.evaluation), "chunk_used": chunks_used},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=sum(result["seconds"] for part in self.parts for result in part.results),
            versions=versions(*PACKAGES),
            hardware=RobustHardware(accelerator=device, name=device_name(device)),
            git_commit=git_commit(),
        )
