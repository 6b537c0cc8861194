"""The teacher of a finished run, looked up in the store: attacks made on it are tried on the run's network."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from torch import nn

from relinearize.errors import UserError
from relinearize.files import file_digest
from relinearize.records.store import KEY_LENGTH, WEIGHTS, Artifact
from relinearize.runs.build import all_relu_network
from relinearize.runs.finished import FinishedRun
from relinearize.runs.weights import match_weights, read_weights
from relinearize.targets import build


@dataclass(frozen=True)
class FinishedTeacher:
    """An all-ReLU network with one set of batch norms, on the CPU in eval mode, and the digest of its weights."""

    network: nn.Module
    weights: str


def teacher_of(run: FinishedRun) -> FinishedTeacher | None:
    """None where the store is not at hand any more, or where the teacher has several sets of batch norms.

    The store is looked for where the run's config says, then where it lies by default: beside the folder of all runs.
    """
    key = run.record.stages["teacher"].key if "teacher" in run.record.stages else None
    if key is None:
        return None
    stores = [Path(run.config.store), *(folder / "store" for folder in run.folder.resolve().parents[1:4])]
    for store in stores:
        for folder in store.glob(f"teacher/*-{key[:KEY_LENGTH]}"):
            artifact = Artifact(folder, key)
            if artifact.complete and (described := artifact.describe())["key"] == key:
                return _opened(folder / WEIGHTS, described["config"], run)
    return None


def _opened(path: Path, config: dict, run: FinishedRun) -> FinishedTeacher | None:
    config = OmegaConf.create(config)
    config.dataset = run.config.dataset  # where the images lie now
    network = all_relu_network(config, build(config.dataset.source))
    try:
        network.network.load_state_dict(match_weights(network.network, read_weights(path), path))
    except UserError:
        return None
    return FinishedTeacher(network.eval().requires_grad_(False), file_digest(path))
