"""The results of stages as W&B artifacts, and their lineage: teacher -> (sensitivity ->) search -> finetune."""

import re
from pathlib import Path
from typing import Any

from relinearize.tracking.interface import StageInfo


def lineage(info: StageInfo) -> dict[str, dict[str, str]]:
    """Stage -> its W&B run and artifacts, of all that `info` was made from; for the run's config and its artifacts."""
    return {
        one.stage: {
            "run": one.run_id,
            **{kind: f"{artifact_name(kind, one.name)}:{one.alias}" for kind in one.files},
        }
        for one in info.inputs
    }


def wandb_artifacts(info: StageInfo) -> list[Any]:
    """The W&B artifacts of a stage. Built again from the same files, one is the same: W&B goes by content."""
    metadata = {"key": info.artifact.key, "made_from": lineage(info)}
    return [wandb_artifact(kind, info.name, path, metadata) for kind, path in info.files.items()]


def wandb_artifact(kind: str, name: str, file: Path, metadata: dict[str, Any], copied: bool = False) -> Any:
    """The W&B artifact of one file.

    A file of the store is referred to, until it is uploaded: it is never changed in place. Others are `copied`.
    """
    import wandb

    artifact = wandb.Artifact(artifact_name(kind, name), type=kind, metadata=metadata)
    policy = "mutable" if copied else "immutable"
    artifact.add_file(str(file.resolve()), name=file.name, policy=policy, skip_cache=True)
    return artifact


def artifact_name(kind: str, name: str) -> str:
    """mask-snl-resnet18-cifar10-50k-s0, in the letters that W&B allows."""
    return re.sub(r"[^\w.-]", "_", f"{kind}-{name}", flags=re.ASCII)[:128]
