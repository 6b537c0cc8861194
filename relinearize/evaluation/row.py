"""One row of a robust evaluation: a checkpoint with one set of batch norms, evaluated piece by piece."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from relinearize.corruptions.sources import CorruptedImages
from relinearize.data.evaluation_loader import EVALUATION_BATCH
from relinearize.evaluation.attacked import (
    CHUNK,
    attack_pieces,
    attack_record,
    attack_warnings,
    clean_accuracy,
    clean_pieces,
    share,
)
from relinearize.evaluation.checks import check_pieces, check_records, clean_accuracy_check
from relinearize.evaluation.corrupted import CorruptedAccuracy
from relinearize.evaluation.options import EvaluationOptions
from relinearize.evaluation.pieces import PIECES_FILE, Pieces
from relinearize.evaluation.subject import Piece, Subject
from relinearize.machine import device_name, git_commit, versions
from relinearize.progress import WorkProgress
from relinearize.records.robustness import ROBUST_SCHEMA_VERSION, CheckRecord, RobustHardware, RobustRecord
from relinearize.runs.finished import FinishedRun

EVALUATION_VERSION = 1  # raise it when the same options would give other results
PACKAGES = ("torchattacks", "pyautoattack", "opencv-python-headless", "scipy", "pillow")


def asked_of(run: FinishedRun, options: EvaluationOptions) -> dict[str, Any]:
    """What an evaluation is asked and of what, as the record says it."""
    return {
        **options.robust.model_dump(),
        "attack": options.attacks,
        "corruption": options.corruptions,
        "batch_size": options.batch_size,
        "version": EVALUATION_VERSION,
        "subject": run.identity,
    }


def checkpoint_of(run: FinishedRun) -> str:
    """The key that all routes of one checkpoint share: its main route's. A narrower network is a checkpoint itself."""
    submodel = run.record.submodel
    return submodel.run if submodel is not None and submodel.fraction == 1 else run.record.key


class RowEvaluation:
    """All pieces of one row, and the record made of them."""

    def __init__(
        self,
        subject: Subject,
        options: EvaluationOptions,
        attacks: dict[str, Any],
        source: CorruptedImages | None,
        others: Sequence[Subject],
    ) -> None:
        settings = options.robust
        self.subject, self.options, self.attacks = subject, options, attacks
        batch_size = options.batch_size or EVALUATION_BATCH[subject.device]
        self.clean = clean_pieces(subject, settings.n_clean, batch_size)
        self.attacked = {
            name: attack_pieces(
                subject,
                name,
                attack,
                options.attacks[name],
                settings.n_autoattack if name == "autoattack" else settings.n_attack,
                settings.chunk or CHUNK[subject.device],
            )
            for name, attack in attacks.items()
        }
        self.corrupted = None
        if source is not None:
            self.corrupted = CorruptedAccuracy(subject, source, settings.n_corruptions, batch_size)
        self.checks = check_pieces(subject, others, settings) if settings.checks else []

    @property
    def chunks(self) -> dict[str, int]:
        """Attack -> images attacked at once."""
        return {name: pieces[0].what["n"] for name, pieces in self.attacked.items()}

    @property
    def folder(self) -> Path:
        return self.subject.run.folder

    @property
    def pieces(self) -> list[Piece]:
        """In the order of the work."""
        attacked = [piece for pieces in self.attacked.values() for piece in pieces]
        return [*self.clean, *(self.corrupted.pieces if self.corrupted else []), *attacked, *self.checks]

    def record(self, progress: WorkProgress) -> RobustRecord:
        """Do what is not done yet; the robust record of all."""
        self.filed = Pieces(self.folder / PIECES_FILE, {**self.subject.identity, "version": EVALUATION_VERSION})
        self.results = self.worked(progress)
        return self.described()

    def worked(self, progress: WorkProgress) -> dict[str, dict[str, Any]]:
        """Key of a piece -> its result. Each is on the disk before the next is begun."""
        results = {}
        for group, members in groupby(self.pieces, key=lambda piece: piece.group):
            progress.begins(f"{self.name}: {group}")
            found = []
            for piece in members:
                result = self.filed.get(piece.what)
                if result is None:
                    result = piece.compute()
                    self.filed.put(piece.what, result)
                progress.done(piece.units)
                found.append(result)
                results[self.filed.key(piece.what)] = result
            if all("right" in result for result in found):
                percent, count = share(found)
                seconds = sum(result["seconds"] for result in found)
                progress.says(f"{self.name}: {group}  {percent:.2f} % of {count:,}  {seconds:.1f} s")
        return results

    def of(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        """The results of some of the pieces."""
        return [self.results[self.filed.key(piece.what)] for piece in pieces]

    @property
    def name(self) -> str:
        """For lines and the bar."""
        record = self.subject.run.record
        return record.route or self.folder.name

    def described(self) -> RobustRecord:
        """The record of the finished work."""
        run, device = self.subject.run, self.subject.device
        record, settings = run.record, self.options.robust
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
            clean=clean_accuracy(self.of(self.clean)),
            attacks=[
                attack_record(name, self.attacks[name], settings.seed, self.of(pieces))
                for name, pieces in self.attacked.items()
            ],
            corruptions=self.corrupted.record(self.of(self.corrupted.pieces)) if self.corrupted else None,
            checks=self.check_records(),
            evaluation={**asked_of(run, self.options), "chunk_used": self.chunks},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=sum(result["seconds"] for result in self.results.values()),
            versions=versions(*PACKAGES),
            hardware=RobustHardware(accelerator=device, name=device_name(device)),
            git_commit=git_commit(),
        )

    def check_records(self) -> list[CheckRecord]:
        """The checks, then what attacks complained about."""
        clean = clean_accuracy_check(self.subject, clean_accuracy(self.of(self.clean))) if self.checks else None
        complaints = [
            attack_warnings(name, self.attacks[name], self.of(pieces)) for name, pieces in self.attacked.items()
        ]
        return [check for check in (clean, *check_records(self.of(self.checks)), *complaints) if check]
