"""What the stages of a run hand on, as W&B knows it: teacher -> (sensitivity ->) search -> finetune."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relinearize.records.store import KEY_LENGTH, MASK, WEIGHTS, Artifact
from relinearize.relu.budget import short_count

FILES = {"mask": MASK, "weights": WEIGHTS}


@dataclass(frozen=True)
class Made:
    """The result of `stage` of `plan`, finished or to be; `artifact`: its place in the store.

    For a search: what it has at the plan's budget.
    """

    plan: Any
    stage: str
    artifact: Artifact

    @property
    def alias(self) -> str:
        """The key's first digits: they tell versions of one name apart, and are part of the name of its folder."""
        return self.artifact.key[:KEY_LENGTH]

    @property
    def run_id(self) -> str:
        """The W&B run's id. All budgets of one search share a run."""
        return f"{self.stage}-{self.alias}"

    @property
    def name(self) -> str:
        """Readable: teacher-resnet18-cifar10-s0, snlsearch-resnet18-cifar10-s0-50k, snl-resnet18-cifar10-50k-s0."""
        if self.stage == "finetune":
            return self.plan.name
        if self.stage == "search":
            return f"{without_key(self.plan.search)}-{short_count(self.plan.budget)}"
        return f"{self.stage}-{without_key(self.artifact)}"

    @property
    def files(self) -> dict[str, Path]:
        """Kind ("mask", "weights") -> file in the store. A stage but for the search makes no mask."""
        kinds = FILES if self.stage == "search" else {"weights": WEIGHTS}
        return {kind: self.artifact.path / file for kind, file in kinds.items()}

    @property
    def inputs(self) -> list["Made"]:
        """What the stage was made from."""
        teacher = Made(self.plan, "teacher", self.plan.teacher)
        if self.stage == "teacher":
            return []
        if self.stage == "finetune":
            return [teacher, Made(self.plan, "search", self.plan.snapshot(self.plan.budget))]
        source = self.plan.sensitivity_source if self.stage == "search" and self.plan.allocated else None
        if source is None or source.artifact is None:
            return [teacher]
        kind = "search" if source.learned else "sensitivity"
        return [teacher, Made(source.maker, kind, source.artifact)]

    @property
    def references(self) -> dict[str, str]:
        """Kind -> name:alias of its W&B artifact."""
        return {kind: f"{artifact_name(kind, self.name)}:{self.alias}" for kind in self.files}

    def wandb_artifacts(self) -> list[Any]:
        """Its W&B artifacts. Built again from the same files, one is the same artifact: W&B goes by content."""
        metadata = {"key": self.artifact.key, "made_from": lineage(self)}
        return [wandb_artifact(kind, self.name, path, metadata) for kind, path in self.files.items()]


def lineage(made: Made) -> dict[str, dict[str, str]]:
    """Stage -> its W&B run and artifacts, of all that `made` was made from; for the run's config and its artifacts."""
    return {one.stage: {"run": one.run_id, **one.references} for one in made.inputs}


def wandb_artifact(kind: str, name: str, file: Path, metadata: dict[str, Any], copied: bool = False) -> Any:
    """The W&B artifact of one file.

    A file of the store is referred to, until it is uploaded: it is never changed in place. Others are `copied`.
    """
    import wandb

    artifact = wandb.Artifact(artifact_name(kind, name), type=kind, metadata=metadata)
    policy = "mutable" if copied else "immutable"
    artifact.add_file(str(file.resolve()), name=FILES[kind], policy=policy, skip_cache=True)
    return artifact


def artifact_name(kind: str, name: str) -> str:
    """mask-snl-resnet18-cifar10-50k-s0, in the letters that W&B allows."""
    return re.sub(r"[^\w.-]", "_", f"{kind}-{name}", flags=re.ASCII)[:128]


def without_key(artifact: Artifact) -> str:
    return artifact.path.name.removesuffix(f"-{artifact.key[:KEY_LENGTH]}")
