"""The sanity checks of a subject (robustness/sanity.py), each a piece of the evaluation."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relinearize.backbones.weights import match_weights, read_weights
from relinearize.errors import UserError
from relinearize.evaluation.pieces import Part, Piece, Result
from relinearize.evaluation.settings import RobustSettings
from relinearize.evaluation.subject import Subject
from relinearize.files import file_digest
from relinearize.records.config import check_untrusted
from relinearize.records.robustness import CheckRecord, CleanAccuracy
from relinearize.records.store import KEY_LENGTH, WEIGHTS, Artifact
from relinearize.robustness.sanity import CHECKS, FACTORS, FATAL_RADIUS, Case, Check, clean_agreement, transfer
from relinearize.runs.build import all_relu_network
from relinearize.runs.finished import FinishedRun
from relinearize.targets import build

# Forward passes an image, where it is not about PGD-20 once or twice; for the progress bar.
COSTS = {"epsilon sweep": 420, "steps": 570, "restarts": 300, "black box": 1000, "transfer": 120}
USUAL_COST = 60


class InChunks(nn.Module):
    """`network` on `chunk` images at a time, with the logits and gradients that it has on all at once.

    A backward pass needs the memory of one chunk: it computes the forward pass of each anew.
    """

    def __init__(self, network: nn.Module, chunk: int) -> None:
        super().__init__()
        self.network, self.chunk, self.training = network, chunk, network.training

    def forward(self, images: Tensor) -> Tensor:
        parts = images.split(self.chunk)
        if len(parts) == 1:
            return self.network(images)
        settings = {"use_reentrant": False, "preserve_rng_state": False}
        return torch.cat([checkpoint(self.network, part, **settings) for part in parts])


def checks_part(subject: Subject, others: Sequence[Subject], settings: RobustSettings, chunk: int) -> Part:
    """All checks on the first `settings.n_checks` images, of which a network sees `chunk` at a time.

    others: the other routes of the checkpoint.

    Without other routes attacks are transferred from the run's teacher, if the store still has it.
    """
    epsilon, count = settings.epsilon, settings.n_checks
    pieces = []

    @cache  # the images are loaded, and PGD-20 done, when the first check asks for them
    def case() -> Case:
        return Case(InChunks(subject.network, chunk), *subject.batch(subject.order[:count]), epsilon, subject.seed)

    def add(name: str, check: Callable[[Case], Check], **further: Any) -> None:
        what = {"kind": "check", "check": name, "epsilon": epsilon, "n": count, "seed": subject.seed, **further}
        if name == "epsilon sweep" and max(FACTORS) * epsilon < FATAL_RADIUS:
            what["revision"] = 2  # an earlier program filed another check under the same settings

        def compute() -> Result:
            found = check(case())
            values = {"name": found.name, "passed": bool(found.passed), "message": found.message}
            return {"check": CheckRecord(**values, numbers=dict(found.numbers)).model_dump(mode="json")}

        units = min(count, len(subject.images)) * COSTS.get(name, USUAL_COST)
        pieces.append(Piece(f"check {name}", what, units, compute))

    add("clean agreement", lambda case: clean_agreement(case.network, case.images, without_adapter(subject, chunk)))
    for name, check in CHECKS.items():
        add(name, check)
    networks = {f"route {one.run.record.route}": (one.network, one.run.identity["weights"]) for one in others}
    if not networks and (teacher := teacher_of(subject.run)):
        networks = {"its teacher": (teacher[0].to(subject.device), teacher[1])}
    if networks:
        check = partial(transfer, others={name: InChunks(network, chunk) for name, (network, _) in networks.items()})
        add("transfer", check, others=[digest for _, digest in networks.values()])
    return Part(pieces, lambda results: [CheckRecord.model_validate(result["check"]) for result in results])


def without_adapter(subject: Subject, chunk: int) -> Callable[[Tensor], Tensor]:
    """The network, on `chunk` images at a time, whose pixels are normalised outside of the adapter, as the run's config
    says."""
    mean, std = (
        torch.tensor(list(subject.run.config.dataset[key]), device=subject.device).view(1, -1, 1, 1)
        for key in ("mean", "std")
    )

    @torch.no_grad()
    def logits(pixels: Tensor) -> Tensor:
        return InChunks(subject.network.network, chunk)((pixels - mean) / std)

    return logits


def teacher_of(run: FinishedRun) -> tuple[nn.Module, str] | None:
    """The run's teacher, on the CPU in eval mode, and the digest of its weights.

    None where the store is not at hand any more, or where the teacher has several sets of batch norms. The store is
    looked for where the run's config says, then where it lies by default: beside the folder of all runs.
    """
    if "teacher" not in run.record.stages:
        return None
    key = run.record.stages["teacher"].key
    for store in [Path(run.config.store), *(folder / "store" for folder in run.folder.resolve().parents[1:4])]:
        for folder in store.glob(f"teacher/*-{key[:KEY_LENGTH]}"):
            artifact = Artifact(folder, key)
            try:
                described = artifact.describe() if artifact.complete else {}
            except UserError:  # a copy that somebody made, or a damaged one
                continue
            if described.get("key") != key:
                continue
            if not run.trust:
                check_untrusted(described["config"], folder)
            config = OmegaConf.create(described["config"])
            config.dataset = run.config.dataset  # where the images lie now
            if "weights" in config.backbone:
                config.backbone.weights = None  # it began with them; the ones it has now are below
            try:
                network, path = all_relu_network(config, build(config.dataset.source)), artifact.file(WEIGHTS)
                network.network.load_state_dict(match_weights(network.network, read_weights(path), path))
            except UserError:
                return None
            return network.eval().requires_grad_(False), file_digest(path)
    return None


def clean_accuracy_check(subject: Subject, clean: CleanAccuracy) -> CheckRecord | None:
    """Is what is attacked the network whose accuracy the run recorded? None where not all test images were looked at.

    One image in a thousand may come out differently on another device.
    """
    recorded = subject.run.record.accuracy
    if clean.n != recorded.n_test:
        return None
    passed = abs(clean.accuracy - recorded.test) <= max(0.1, 100 / clean.n) + 1e-6
    message = f"{clean.accuracy:.2f} % of the test images, the run's record says {recorded.test:.2f} %"
    numbers = {"measured": clean.accuracy, "recorded": recorded.test}
    return CheckRecord(name="clean accuracy", passed=passed, message=message, numbers=numbers)
